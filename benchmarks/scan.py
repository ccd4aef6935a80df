"""The selective scan at the training shape: time and memory of each backend, and how time grows with length.

`reference` is the plain loop, `indexed` one in the way of mamba-ssm's reference (`indexed_loop.py`). Every
backend runs forward and backward in a process of its own, so that its peak memory is its own. The
ratios hold for one run on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

FRAMES_PER_SECOND = 125


def measure(
    backend: str, rows: int, length: int, dim: int, states: int, repeats: int, threads: int
) -> dict[str, Any]:
    """Fastest forward and backward in seconds, and the peak memory above that of the inputs, in bytes."""
    import torch

    from ablate.models import selective_scan
    from ablate.models.scan import BACKENDS

    sys.path.append(str(Path(__file__).parent))
    BACKENDS["indexed"] = "indexed_loop"

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    wide = [torch.randn(rows, length, dim, requires_grad=True) for _ in range(3)]
    u, delta, z = (t.transpose(1, 2) for t in wide)
    b, c = (torch.randn(rows, length, states, requires_grad=True) for _ in range(2))
    a, skip = (-torch.rand(dim, states)).requires_grad_(), torch.ones(dim, requires_grad=True)
    warm = [t[:1, ..., :2].detach().requires_grad_() for t in (u, delta, z)]
    short = [t[:1, :2].detach().transpose(1, 2).requires_grad_() for t in (b, c)]
    selective_scan(warm[0], warm[1], a, *short, skip, warm[2], True, backend=backend).sum().backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    forward, backward = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        y = selective_scan(u, delta, a, b.transpose(1, 2), c.transpose(1, 2), skip, z, True, backend=backend)
        middle = time.perf_counter()
        torch.autograd.grad(y, [*wide, a, b, c, skip], torch.ones_like(y))
        forward.append(middle - start)
        backward.append(time.perf_counter() - middle)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"forward": min(forward), "backward": min(backward), "peak_bytes": peak * 1024}


def isolated(**arguments: Any) -> dict[str, Any]:
    """`measure` in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, kwds=arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=186, help="batch 6 times 31 bands")
    parser.add_argument("--length", type=int, default=251, help="frames of 2 s")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--states", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5, help="of the fused scan; the loops run once")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--backends", default="numba,chunked,reference,indexed", help="the last is what ratios are to"
    )
    parser.add_argument("--seconds", default="1,5,15,60", help="lengths of audio for the growth, 31 rows")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()

    shape = {"rows": options.rows, "length": options.length, "dim": options.dim, "states": options.states}
    found = {}
    for backend in options.backends.split(","):
        print(f"{backend} ...", file=sys.stderr)
        repeats = options.repeats if backend == "numba" else 1
        found[backend] = isolated(backend=backend, repeats=repeats, threads=options.threads, **shape)
    baseline = list(found.values())[-1]
    table = Table(
        "backend", "forward s", "backward s", "peak MB", "times faster", "times less memory", title=str(shape)
    )
    for backend, row in found.items():
        total = row["forward"] + row["backward"]
        row["speedup"] = (baseline["forward"] + baseline["backward"]) / total
        row["memory_ratio"] = baseline["peak_bytes"] / max(1, row["peak_bytes"])
        times = [f"{row['forward']:.3f}", f"{row['backward']:.3f}", f"{row['peak_bytes'] / 2**20:.0f}"]
        table.add_row(backend, *times, f"{row['speedup']:.1f}", f"{row['memory_ratio']:.1f}")

    growth = []
    lengths = Table("audio s", "forward + backward s", "us per frame", title="fused scan, 31 rows")
    for seconds in map(float, options.seconds.split(",")):
        frames = round(seconds * FRAMES_PER_SECOND)
        sizes = {**shape, "rows": 31, "length": frames}
        row = isolated(backend="numba", repeats=3, threads=options.threads, **sizes)
        total = row["forward"] + row["backward"]
        growth.append({"seconds": seconds, "time": total, "time_per_frame": total / frames})
        lengths.add_row(f"{seconds:g}", f"{total:.3f}", f"{1e6 * total / frames:.1f}")
    console = Console()
    console.print(table)
    console.print(lengths)
    if options.json:
        result = {"shape": shape, "threads": options.threads, "backends": found, "growth": growth}
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
