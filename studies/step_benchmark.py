"""Time and memory of a training step of each cell, measured in a process with a slot's device and threads."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from ablate.ablations.grid import Cell
from ablate.models.config import Frozen, ModelConfig
from ablate.models.errors import InputError
from ablate.models.plugins import Planned
from ablate.training.config import Recipe

from .launchers.slots import Slot

STEPS = 4
"""Number of steps per cell; the first is not timed."""


class StepCost(Frozen):
    """Seconds and peak bytes of a training step, without the discriminator."""

    seconds: float
    memory: float


def step_costs(cells: Sequence[Cell], slot: Slot, plugins: Planned = ()) -> dict[str, StepCost]:
    """Cell -> cost of a step with its recipe's batch. Equal trainings are measured once.

    Raises:
        InputError: a step fails; the message ends with the reason.
    """
    names: dict[str, list[str]] = {}
    for cell in cells:
        trained = {"model": cell.config.model, "recipe": cell.config.recipe}
        key = json.dumps({name: part.model_dump(mode="json") for name, part in trained.items()})
        names.setdefault(key, []).append(cell.name)
    asked = {
        "cells": [json.loads(key) for key in names],
        "plugins": plugins,
        "device": slot.device,
        "threads": slot.threads,
    }
    told = subprocess.run(
        [sys.executable, "-P", "-m", "ablate.studies.step_benchmark"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env=os.environ | slot.environment,
        check=False,
    )
    if told.returncode:
        reason = (told.stderr.strip().splitlines() or [f"exit code {told.returncode}"])[-1]
        raise InputError(f"no training step could be timed on {slot.device}: {reason}")
    costs = [StepCost.model_validate(cost) for cost in json.loads(told.stdout.splitlines()[-1])]
    return {name: cost for cost, same in zip(costs, names.values(), strict=True) for name in same}


def measure(model: dict[str, Any], recipe: dict[str, Any], device_name: str, threads: int) -> StepCost:
    """Take a few steps on speech-like clips in this process."""
    import torch

    from ablate.ablations.audit.network_under_test import build
    from ablate.ablations.audit.probe_inputs import SEED, speech_like
    from ablate.models.summary import rate_of
    from ablate.training.data.batches import Batches
    from ablate.training.environment import PeakMemory, choose_device, prepared
    from ablate.training.trainer import Trainer

    device = choose_device(device_name)
    wanted = Recipe.model_validate(recipe).model_copy(update={"adversarial_weight": 0.0})
    rate = rate_of(ModelConfig.model_validate(model))
    crop = int(wanted.crop_seconds * rate)
    clips = speech_like(wanted.crop_seconds, count=wanted.batch_size, rate=rate)
    batches = Batches(clips, batch_size=wanted.batch_size, crop=crop, seed=SEED)
    seconds = []
    with prepared(device, wanted.precision, threads), PeakMemory(device) as peak:
        network = build(ModelConfig.model_validate(model)).to(device)
        trainer = Trainer(network, wanted, batches, seed=SEED, device=device)
        for _ in range(STEPS):
            began = time.perf_counter()
            trainer.train_step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        return StepCost(seconds=statistics.median(seconds[1:]), memory=peak.bytes())


def main() -> None:
    from ablate.models.plugins import load_planned

    asked = json.load(sys.stdin)
    load_planned(asked["plugins"])
    costs = [
        measure(**cell, device_name=asked["device"], threads=asked["threads"]) for cell in asked["cells"]
    ]
    print(json.dumps([cost.model_dump() for cost in costs]))


if __name__ == "__main__":
    main()
