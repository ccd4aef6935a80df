"""Tuning with an equal budget for every cell, on validation, with seeds of its own.

Every cell, the baseline included, is tried at the same candidate settings: a scrambled Sobol sequence,
so the budget is equal, the trials can run at once, and an interrupted tuning goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from scipy.stats import qmc

from ablate.ablations.runspec import RunSpec, run_path
from ablate.training.rundir import RunDir

from .driver import Job
from .plan import Plan, PlannedCell
from .request import Tuning
from .trials import TrialBook

FIRST_SEED = 1_000_001
"""Tuning runs have seeds from here on, which no study's own seeds reach."""


def candidates(tuning: Tuning) -> list[dict[str, float]]:
    """The settings every cell is tried at; ranges above 0 are covered evenly in their logarithm."""
    points = qmc.Sobol(len(tuning.space), seed=0).random(2 ** math.ceil(math.log2(tuning.trials)))
    return [
        {
            path: float(low * (high / low) ** u if low > 0 else low + (high - low) * u)
            for u, (path, (low, high)) in zip(point, tuning.space.items(), strict=True)
        }
        for point in points[: tuning.trials]
    ]


def jobs(plan: Plan, root: Path, storage: BaseStorage, check: Callable[[], None] = lambda: None) -> list[Job]:
    """The tuning trainings of a plan, a trial each in the Optuna study `<name>/tune/<cell>`."""
    assert plan.tune is not None
    made = []
    for cell in plan.cells:
        book = TrialBook(storage, f"{plan.name}/tune/{cell.name}", check)
        for index, settings in enumerate(candidates(plan.tune)):
            seed = FIRST_SEED + index
            spec = _spec(plan, cell, settings, seed)
            if (cell.name, seed) not in book.entries:
                kinds: dict[str, BaseDistribution] = {
                    path: FloatDistribution(low, high, log=low > 0)
                    for path, (low, high) in plan.tune.space.items()
                }
                book.add(
                    (cell.name, seed), dict(settings), kinds, {"training_signature": spec.training_signature}
                )
            run = RunDir(run_path(root, spec.training_signature))
            made.append(Job(run, spec.document(), {}, [(book, book.entries[cell.name, seed])]))
    return made


def _spec(plan: Plan, cell: PlannedCell, settings: dict[str, Any], seed: int) -> RunSpec:
    tried = cell.model_copy(update={"config": cell.config.with_changes(settings)})
    return RunSpec.of(tried, seed, plan.data, plugins=plan.plugins)


def settle(plan: Plan, done: Iterable[Job]) -> Plan:
    """The plan with every cell at the settings of its best validation PESQ.

    Raises:
        RuntimeError: a cell has no finished tuning run; the message names it.
    """
    assert plan.tune is not None
    options = candidates(plan.tune)
    best: dict[str, tuple[float, dict[str, float]]] = {}
    for job in done:
        ((_, entry),) = job.members
        value = job.run.state.val_pesq_wb
        name, seed = entry.key
        if entry.state == TrialState.COMPLETE and value is not None:
            best[name] = max(best.get(name, (-math.inf, {})), (value, options[seed - FIRST_SEED]), key=_value)
    missing = [cell.name for cell in plan.cells if cell.name not in best]
    if missing:
        raise RuntimeError(
            f"no tuning run of {', '.join(missing)} ended; see their log.txt, narrow --tune and run again"
        )
    cells = tuple(
        cell.model_copy(
            update={"config": cell.config.with_changes(best[cell.name][1]), "tuned": best[cell.name][1]}
        )
        for cell in plan.cells
    )
    return plan.model_copy(update={"cells": cells}).signed()


def _value(pair: tuple[float, dict[str, float]]) -> float:
    return pair[0]
