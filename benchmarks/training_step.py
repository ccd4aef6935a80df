"""One training step of whole networks: fused scan against the plain loop, and bfloat16 against float32.

A step is forward, a loss of the spectrogram, backward, clipping and Adam. Every case runs in a process of
its own, so that its peak memory is its own, with the settings of the allocator that the launchers give their
workers (`studies.launchers.base.ALLOCATOR`) or, in one case of each network, without them. The indexed loop
is one in the way of mamba-ssm's reference (`indexed_loop.py`). The ratios hold for one run on an
otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ablate.studies.launchers.base import ALLOCATOR

CASES: dict[str, dict[str, str]] = {
    "mbsnet, fused scan": {"preset": "mbsnet", "scan": "auto", "precision": "fp32"},
    "mbsnet, fused scan, bf16": {"preset": "mbsnet", "scan": "auto", "precision": "bf16"},
    "mbsnet, fused scan, default allocator": {"preset": "mbsnet", "scan": "auto", "precision": "fp32"},
    "mbsnet, plain loop": {"preset": "mbsnet", "scan": "reference", "precision": "fp32"},
    "mbsnet, indexed loop": {"preset": "mbsnet", "scan": "indexed", "precision": "fp32"},
    "bsrnn, bf16": {"preset": "bsrnn", "scan": "auto", "precision": "bf16"},
    "bsrnn, default allocator": {"preset": "bsrnn", "scan": "auto", "precision": "fp32"},
    "bsrnn": {"preset": "bsrnn", "scan": "auto", "precision": "fp32"},
}
"""Each network's last case is the one that its ratios are to."""


def measure(
    preset: str, scan: str, precision: str, batch: int, frames: int, steps: int, threads: int, profile: bool
) -> dict[str, Any]:
    """Fastest step in seconds and the peak memory of the process in bytes."""
    import torch

    from ablate.models import build_model
    from ablate.models.scan import BACKENDS, using

    sys.path.append(str(Path(__file__).parent))
    BACKENDS["indexed"] = "indexed_loop"
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = build_model(preset)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    noisy = torch.randn(batch, 257, frames, dtype=torch.complex64)
    clean = noisy + torch.randn_like(noisy)

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> None:
        with using(scan), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            enhanced = model(inputs)
        loss = (enhanced - targets).abs().mean() + (enhanced.abs() - targets.abs()).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    step(noisy[..., :4], clean[..., :4])
    if steps > 1:
        step(noisy, clean)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step(noisy, clean)
        times.append(time.perf_counter() - start)
    if profile:
        with torch.profiler.profile() as profiler:
            step(noisy, clean)
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25), file=sys.stderr)
    return {"seconds": min(times), "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--frames", type=int, default=251, help="251 frames are 2 s")
    parser.add_argument("--steps", type=int, default=3, help="timed; the plain loop runs once")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="cases that contain this")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()

    cases = {name: case for name, case in CASES.items() if options.only in name}
    if not cases:
        raise SystemExit(f"no case contains {options.only!r}; cases: {', '.join(CASES)}")
    found: dict[str, dict[str, Any]] = {}
    for name, case in cases.items():
        print(f"{name} ...", file=sys.stderr)
        steps = options.steps if case["scan"] == "auto" else 1
        sizes = {"batch": options.batch, "frames": options.frames, "threads": options.threads}
        for variable in ALLOCATOR:
            os.environ.pop(variable, None)
        os.environ.update({} if "default allocator" in name else ALLOCATOR)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            row = pool.apply(measure, kwds={**case, **sizes, "steps": steps, "profile": options.profile})
        found[name] = {**case, **row}
    table = Table("case", "s a step", "peak MB", "times faster", "times less memory")
    for name, row in found.items():
        last = [other for other in found.values() if other["preset"] == row["preset"]][-1]
        row["speedup"] = last["seconds"] / row["seconds"]
        row["memory_ratio"] = last["peak_bytes"] / row["peak_bytes"]
        ratios = (f"{row['speedup']:.1f}", f"{row['memory_ratio']:.1f}")
        table.add_row(name, f"{row['seconds']:.2f}", f"{row['peak_bytes'] / 2**20:.0f}", *ratios)
    Console().print(table)
    if options.json:
        shape = {"batch": options.batch, "frames": options.frames, "threads": options.threads}
        options.json.write_text(json.dumps({**shape, "cases": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
