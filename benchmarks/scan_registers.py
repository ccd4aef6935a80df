"""Compiles the Triton kernels for GPUs that need not be there: registers, and bytes that had to be spilled.

The shape is that of MBS-Net's training (128 channels, 12 states), in the dtypes of both precisions, with and
without clamps, and with 32 states beside. Needs no GPU: Triton brings the compiler and its tools along.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

BOUNDS = ("low", "high", "most", "least_step", "most_step", "gain", "limit", "cut")
"""Arguments of the kernels that are numbers; `WHOLE` and those ending in `_row` or `_time` are integers."""
WHOLE = ("time", "dim", "states")
FED = ("delta", "B", "C", "z", "gdelta", "gz")
"""What a layer under autocast gives to the scan in bfloat16, and the gradients of it."""


def compiled(
    kernel: Any, constants: dict[str, Any], launch: dict[str, Any], narrow: bool, target: int
) -> Any:
    """A kernel for a compute capability (90: 9.0), as for strides that are all multiples of 16."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in BOUNDS:
            signature[name] = "fp32"
        elif name in WHOLE or name.endswith(("_row", "_time")):
            signature[name] = "i32"
        else:
            signature[name] = "*bf16" if narrow and name in FED else "*fp32"
    divisible = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if signature[name] not in ("constexpr", "fp32") and name not in ("time", "states")
    }
    source = ASTSource(kernel, signature, constants, divisible)
    return triton.compile(source, GPUTarget("cuda", target, 32), launch)


def usage(kernel: Any) -> dict[str, int]:
    """Registers a thread, bytes that it needs for what they could not hold, and barriers asked for."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [tool, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(count) for name, count in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    barriers = kernel.asm["ttir"].count("barrier")
    return {"registers": found["REG"], "spilled": found["STACK"] + found["LOCAL"], "barriers": barriers}


def measure(target: int) -> list[dict[str, Any]]:
    """A row for each kernel and variant."""
    from ablate.models.scan import triton_backend, triton_convolution, triton_kernels

    rows = []

    for pass_, states, clamped, narrow in product(
        ("forward", "backward"), (12, 32), (False, True), (False, True)
    ):
        constants = {"SOFTPLUS": True, "CLAMPED": clamped, "GATED": True, **triton_backend.sizes(states)}
        if pass_ == "forward":
            constants["KEEP"] = True
        kernel = compiled(
            getattr(triton_kernels, pass_), constants, triton_backend.LAUNCH, narrow=narrow, target=target
        )
        variant = {"states": states, "clamped": clamped, "bfloat16": narrow}
        rows.append({"kernel": f"scan {pass_}", "target": target, **variant, **usage(kernel)})
    for pass_ in ("forward", "backward"):
        kernel = compiled(
            getattr(triton_convolution, pass_),
            {"TAPS": 4, "FRAMES": triton_convolution.FRAMES, "CHANNELS": triton_convolution.CHANNELS},
            triton_convolution.LAUNCH,
            narrow=False,
            target=target,
        )
        rows.append({"kernel": f"convolution {pass_}", "target": target, **usage(kernel)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", default="80,90,100", help="compute capabilities times ten")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    rows = [row for target in options.targets.split(",") for row in measure(int(target))]
    for row in rows:
        print(*(f"{name}={value}" for name, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
