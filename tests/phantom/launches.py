"""Launches and host time of a training step on the phantom GPU, by preset and precision, as a table.

Host time is the processor time of the thread that trains, at one thread, as a card would let it run ahead. It
belongs to the machine it is measured on; launches do not.
"""

from __future__ import annotations

import argparse
import math
import time
from itertools import product
from types import SimpleNamespace
from typing import Any

import counts
import gpu_work
import torch

from ablate.models.config import resolve_model
from ablate.training import trainer as trainer_module
from ablate.training.config import RECIPES
from ablate.training.environment import free_memory, prepared

WARM_UP = 8


def measure(
    preset: str, precision: str, recipe: str, judged: bool, graph: bool, steps: int
) -> dict[str, Any]:
    """Launches of a step, and the least and the median milliseconds of the processor."""
    config = RECIPES[recipe].shrink(resolve_model(preset))
    fields = {"adversarial_weight": 1.0, "adversarial_start": 0.0, "judge_lag": 1} if judged else {}
    if graph:
        fields["cuda_graph"] = True
    course = gpu_work.recipe_of(precision, 1000, tiny=False, **fields)
    with prepared(torch.device("cuda"), precision, 1):
        run = gpu_work.training(config, course, "cuda")
        for _ in range(WARM_UP):
            run.start_step()
        seconds = []
        for _ in range(steps):
            counts.reset()
            start = time.thread_time()
            run.start_step()
            seconds.append(time.thread_time() - start)
        found = counts.counts()
        run.finish_step()
    free_memory()
    milliseconds = sorted(1000 * second for second in seconds)
    return {"launches": counts.launches(found), "least": milliseconds[0], "median": milliseconds[steps // 2]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["mbsnet", "mbsnet-dual-branch", "bsrnn"])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--recipes", nargs="+", default=["reference", "small"], help="whose sizes are taken")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--no-graph", action="store_true", help="leave out steps replayed from a CUDA graph")
    options = parser.parse_args()
    if not counts.loaded():
        parser.error("this process does not run on the phantom GPU; see tests/phantom/README.md")
    numbers = {**vars(math), "isfinite": lambda _: True}  # kernels do nothing
    trainer_module.math = SimpleNamespace(**numbers)  # type: ignore[assignment]
    torch.set_num_threads(1)
    print("| network | size | precision | discriminator | launches | ms | launches, graph | ms, graph |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    kinds = product(options.recipes, options.presets, options.precisions, (False, True))
    for recipe, preset, precision, judged in kinds:
        cells = [preset, "full" if recipe == "reference" else recipe, precision, "yes" if judged else "no"]
        for graph in (False,) if options.no_graph else (False, True):
            row = measure(preset, precision, recipe, judged, graph, options.steps)
            cells += [str(row["launches"]), f"{row['least']:.1f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
