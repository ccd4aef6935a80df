"""Tuning on validation files with the same budget for every cell, and with seeds of its own.

Every cell, including the baseline, is tried with the same settings, from a scrambled Sobol sequence. So the
budget is equal, trials can run in parallel, and an interrupted tuning can continue. Optuna's `QMCSampler` is
not used, because its settings would differ between cells and with the order of results: it samples at random
until a first trial is complete, always samples categories at random, and takes its next point from the
storage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from scipy.stats import qmc

from ablate.ablations.runspec import run_path
from ablate.training.rundir import RunDir

from .launchers import Job
from .plan import Plan, cache_path
from .study import FIRST_TUNING_SEED, Choices, Range, Tuning
from .trials import TrialBook

LEAST: tuple[float, dict[str, Any]] = (-math.inf, {})


def candidates(tuning: Tuning) -> list[dict[str, Any]]:
    """The settings to try in every cell; ranges with low > 0 are covered evenly on a log scale."""
    points = qmc.Sobol(len(tuning.space), seed=0).random(2 ** math.ceil(math.log2(tuning.trials)))
    return [
        {path: _at(u, values) for u, (path, values) in zip(point, tuning.space.items(), strict=True)}
        for point in points[: tuning.trials].tolist()
    ]


def _at(u: float, values: Range | Choices) -> Any:
    """The value that a point `u` in [0, 1) maps to."""
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
) -> Iterator[Job]:
    """A job for each tuning run of a plan, with a trial in the Optuna study `<key>/tune/<cell>`.

    Args:
        key: name of the study in Optuna. Default: the plan's name.
    """
    assert plan.tune is not None
    kinds = {path: _distribution(values) for path, values in plan.tune.space.items()}
    for cell in plan.cells:
        book = TrialBook(storage, f"{key or plan.name}/tune/{cell.name}", check)
        for seed, settings in enumerate(candidates(plan.tune), start=FIRST_TUNING_SEED):
            # candidates are compared on the same files
            config = cell.config.with_changes(settings | {"recipe.split": "fixed"})
            spec = plan.spec(cell.model_copy(update={"config": config}), seed)
            signature = spec.training_signature
            if (cell.name, seed) not in book.trials:
                book.add((cell.name, seed), dict(settings), kinds, {"training_signature": signature})
            trials = [(book, book.trials[cell.name, seed])]
            run = RunDir(run_path(root, signature))
            yield Job(run, cache_path(root), document=spec.document(), trials=trials)


def settle(plan: Plan, done: Iterable[Job]) -> Plan:
    """The plan with the settings that gave the best validation PESQ in each cell.

    Raises:
        RuntimeError: a cell does not have a finished tuning run; the message names it.
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
