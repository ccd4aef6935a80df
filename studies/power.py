"""Power analysis before training: `inference.power` with a grid and a pilot study."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from ablate.ablations.factors import Factor
from ablate.ablations.inference.power import Variances, compare_designs, plan
from ablate.models.errors import InputError
from ablate.training.metrics.registry import label_of

from .analysis import analyze_study
from .plan import load
from .scores import RunInfo, scores_of_runs


@dataclass(frozen=True)
class Outlook:
    """Smallest detectable effects.

    Attributes:
        table: as from `inference.power.plan`.
        designs: as from `compare_designs`; None if no effect was given.
        source: source of the variances.
        hours: hours per run.
    """

    table: pd.DataFrame
    designs: pd.DataFrame | None
    variances: Variances
    source: str
    design: str
    effect: float | None
    power: float
    hours: float | None


def outlook(
    factors: Sequence[Factor],
    seeds: Sequence[int],
    *,
    pilot: tuple[Path | str, str] | None = None,
    effect: float | None = None,
    design: str = "full",
    constraints: tuple[dict[str, str], ...] = (),
    baseline: bool = True,
    power: float = 0.8,
    metric: str | None = None,
) -> Outlook:
    """Smallest detectable effects of a grid for each number of seeds.

    Args:
        factors: the grid's factors; levels of factors that only change the evaluation share their runs.
        pilot: (root, study) with the variances and times to use. Default: typical ones.
        effect: compare designs by the runs they need to find a main effect of this size.

    Raises:
        InputError: power is not a probability, or the pilot is missing or does not show how much runs vary.
    """
    if not 0 < power < 1:
        raise InputError(f"power {power} is not between 0 and 1")
    hours, source, variances = None, "typical values, no pilot", Variances()
    if pilot is not None:
        root, name = Path(pilot[0]), pilot[1]
        studied = load(root, name)
        scores, runs = scores_of_runs(studied, root)
        if not any(run.scored for run in runs):
            raise InputError(f"no run of the pilot study {name!r} has scores yet")
        analysis = analyze_study(studied, scores, metric)
        variances = Variances.of(analysis)
        hours = hours_per_run(runs)
        source = f"pilot {name}, {label_of(analysis.metric)}"
    levels = {factor.name: tuple(factor.levels) for factor in factors}
    evaluation_only = [factor.name for factor in factors if factor.evaluation_only]
    common: dict[str, Any] = {
        "variances": variances,
        "baseline": baseline,
        "constraints": constraints,
        "evaluation_only": evaluation_only,
        "power": power,
        "hours": hours,
    }
    table = plan(levels, seeds, design=design, **common)
    designs = compare_designs(levels, effect, **common) if effect is not None else None
    return Outlook(table, designs, variances, source, design, effect, power, hours)


def hours_per_run(runs: Iterable[RunInfo]) -> float | None:
    """Median hours of a study's runs; None if they were not timed."""
    seconds = [run.seconds for run in runs if run.summary.get("seconds_per_step") and run.seconds]
    return median(seconds) / 3600 if seconds else None
