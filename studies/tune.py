"""Tuning with an equal budget for every cell, on validation, with seeds of its own.

Every cell, the baseline included, is tried at the same candidate settings: a scrambled Sobol sequence, so
the budget is equal, the trials can run at once, and an interrupted tuning goes on where it was. Optuna's
`QMCSampler` draws at random until a first trial is complete, draws categories at random always, and takes its
next point from what is stored: its sets would differ from cell to cell and with the order of the ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from scipy.stats import qmc

from ablate.ablations.grid import AnyCell
from ablate.ablations.runspec import RunSpec, run_path
from ablate.training.rundir import RunDir

from .launchers import Job
from .plan import Plan, cache_path
from .study import FIRST_TUNING_SEED, Choices, Range, Tuning
from .trials import TrialBook

LEAST: tuple[float, dict[str, Any]] = (-math.inf, {})


def candidates(tuning: Tuning) -> list[dict[str, Any]]:
    """The settings every cell is tried at; ranges above 0 are covered evenly in their logarithm."""
    points = qmc.Sobol(len(tuning.space), seed=0).random(2 ** math.ceil(math.log2(tuning.trials)))
    return [
        {path: _at(u, values) for u, (path, values) in zip(point, tuning.space.items(), strict=True)}
        for point in points[: tuning.trials].tolist()
    ]


def _at(u: float, values: Range | Choices) -> Any:
    """What stands at a point of [0, 1) of some values."""
    if isinstance(values, Choices):
        return values.choices[int(u * len(values.choices))]
    low, high = values
    if isinstance(low, int) and isinstance(high, int):
        return min(high, math.floor(_between(u, low, high + 1)))
    return _between(u, low, high)


def _between(u: float, low: float, high: float) -> float:
    return float(low * (high / low) ** u if low > 0 else low + (high - low) * u)


def _distribution(values: Range | Choices) -> BaseDistribution:
    if isinstance(values, Choices):
        return CategoricalDistribution(values.choices)
    low, high = values
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=low > 0)
    return FloatDistribution(low, high, log=low > 0)


def jobs(
    plan: Plan,
    root: Path,
    storage: BaseStorage,
    check: Callable[[], None] = lambda: None,
    key: str | None = None,
) -> list[Job]:
    """The distinct tuning trainings of a plan, with a trial each in the Optuna study `<key>/tune/<cell>`.

    Args:
        key: what the study is called in Optuna; none: its name.
    """
    assert plan.tune is not None
    made: dict[str, Job] = {}
    kinds = {path: _distribution(values) for path, values in plan.tune.space.items()}
    for cell in plan.cells:
        book = TrialBook(storage, f"{key or plan.name}/tune/{cell.name}", check)
        for index, settings in enumerate(candidates(plan.tune)):
            seed = FIRST_TUNING_SEED + index
            spec = _spec(plan, cell, settings, seed)
            signature = spec.training_signature
            if (cell.name, seed) not in book.trials:
                book.add((cell.name, seed), dict(settings), kinds, {"training_signature": signature})
            if signature not in made:
                made[signature] = Job(
                    RunDir(run_path(root, signature)), cache_path(root), document=spec.document()
                )
            made[signature].trials.append((book, book.trials[cell.name, seed]))
    return list(made.values())


def _spec(plan: Plan, cell: AnyCell, settings: dict[str, Any], seed: int) -> RunSpec:
    # candidates are compared on the same files
    config = cell.config.with_changes(settings | {"recipe.split": "fixed"})
    tried = cell.model_copy(update={"config": config})
    return plan.spec(tried, seed)


def settle(plan: Plan, done: Iterable[Job]) -> Plan:
    """The plan with every cell at the settings of its best validation PESQ.

    Raises:
        RuntimeError: a cell has no finished tuning run; the message names it.
    """
    assert plan.tune is not None
    options = candidates(plan.tune)
    best: dict[str, tuple[float, dict[str, Any]]] = {}
    for job in done:
        value = job.run.state.val_pesq_wb
        for _, trial in job.trials:
            name, seed = trial.key
            if trial.state == TrialState.COMPLETE and value is not None and value > best.get(name, LEAST)[0]:
                best[name] = (value, options[seed - FIRST_TUNING_SEED])
    missing = [cell.name for cell in plan.cells if cell.name not in best]
    if missing:
        raise RuntimeError(
            f"no tuning run of {', '.join(missing)} finished; see their log.txt, narrow tune.space, run again"
        )
    cells = tuple(
        cell.model_copy(
            update={"config": cell.config.with_changes(best[cell.name][1]), "tuned": best[cell.name][1]}
        )
        for cell in plan.cells
    )
    return plan.model_copy(update={"cells": cells}).signed()
