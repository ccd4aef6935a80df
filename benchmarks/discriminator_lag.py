"""Steps a second of a training whose discriminator lags, against what its metric processes allow.

They measure PESQ of two pairs for each clip of a step, so that at most `processes / (pairs a step x
seconds a pair)` steps a second are possible. The seconds are those that they took for pairs of the
same training, whatever else the machine did.

Without a GPU network and discriminator would take the cores that measure. There a stand-in takes a tenth of
a second of nobody's time, as a GPU does, and the discriminator is small; `--full` trains a network of the
published size.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ablate.models import build_model
from ablate.training import adversary, seeds
from ablate.training.audio import SAMPLE_RATE
from ablate.training.config import Recipe
from ablate.training.data.batches import Batches
from ablate.training.discriminator import Discriminator
from ablate.training.environment import choose_device, prepared
from ablate.training.metrics import MetricPool
from ablate.training.metrics import pool as pool_module
from ablate.training.pipeline import pesq_scorer
from ablate.training.trainer import Trainer

TARGET = 0.9
"""Of the bound, at a lag of one step."""
WARM_UP = 3
"""Steps that do not count: processes start, kernels are compiled."""


class StandIn(nn.Module):
    """A network that a device elsewhere seems to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(257, 1))

    def forward(self, spectrogram: Tensor) -> Tensor:
        time.sleep(0.1)
        return spectrogram * self.gain


class Timed(pool_module._Worker):
    """A metric process that keeps how long each pair took."""

    seconds: ClassVar[list[float]] = []
    lock = threading.Lock()

    def measure(self, job: Any) -> Any:
        began = time.perf_counter()
        scored = super().measure(job)
        with self.lock:
            self.seconds.append(time.perf_counter() - began)
        return scored


def measure(lag: int, processes: int, steps: int, device: torch.device, full: bool) -> dict[str, float]:
    """Train for some steps and compare their rate with the bound."""
    from ablate.ablations.audit.probe_inputs import speech_like

    pool_module._Worker = Timed  # type: ignore[misc]
    recipe = Recipe(
        steps=steps + WARM_UP, adversarial_weight=1.0, adversarial_start=0.0, discriminator_lag=lag
    )
    crop = round(recipe.crop_seconds * SAMPLE_RATE)
    clips = speech_like(2 * recipe.crop_seconds, count=12)
    batches = Batches(clips, batch_size=recipe.batch_size, crop=crop, seed=1)
    with MetricPool(processes) as pool, prepared(device, "fp32", torch.get_num_threads()):
        seeds.set_global(1, "init")
        network = build_model("bsrnn") if full else StandIn()
        if not full:
            adversary.Discriminator = partial(Discriminator, width=4)  # type: ignore[misc, assignment]
        network = network.to(device)
        trainer = Trainer(network, recipe, batches, seed=1, device=device, scorer=pesq_scorer(pool))
        for _ in range(WARM_UP):
            trainer.start_step()
        Timed.seconds.clear()
        began = time.perf_counter()
        for _ in range(steps - 1):
            trainer.start_step()
        took = time.perf_counter() - began
        pair = sum(Timed.seconds) / len(Timed.seconds)
        trainer.start_step()
        trainer.finish_step()
    rate = (steps - 1) / took
    bound = processes / (2 * recipe.batch_size * pair)
    figures = {"lag": lag, "processes": processes, "seconds_a_pair": pair, "steps_a_second": rate}
    return {**figures, "bound": bound, "of_bound": rate / bound}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lags", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--full", action="store_true", help="train a network of the published size")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    device = choose_device(options.device)
    found = [measure(lag, options.processes, options.steps, device, options.full) for lag in options.lags]
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        for row in found:
            print(
                f"lag {row['lag']}: {row['steps_a_second']:.3f} steps a second, {row['of_bound']:.2f} of the "
                f"bound {row['bound']:.3f} ({row['seconds_a_pair'] * 1000:.0f} ms a pair)"
            )
    return int(any(row["lag"] == 1 and row["of_bound"] < TARGET for row in found))


if __name__ == "__main__":
    sys.exit(main())
