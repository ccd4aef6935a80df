"""Power analysis: the effects that a number of seeds can detect, and the design that needs the fewest runs.

The standard errors are those of `engine`, with planned variances in place of measured ones.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import optimize, stats

from ablate.models.errors import InputError

from ..design import KINDS, Design, label
from .contrasts import ContrastSet, build
from .engine import Array, Estimates, quantile
from .verdicts import MOST_SEEDS

if TYPE_CHECKING:
    from .analysis import Analysis

BASELINE = "baseline"


@dataclass(frozen=True)
class Variances:
    """Standard deviations to plan with, in the metric's unit.

    Attributes:
        seed: SD between runs of one cell.
        residual: SD of one utterance in one run.
        utterance_cell: SD of the utterance x cell interaction.
        utterances: number of test utterances.
        by_cell: SD between runs for cells (`a=on,b=off` in any order, or `baseline`) where it is not `seed`.
    """

    seed: float = 0.03
    residual: float = 0.2
    utterance_cell: float = 0.05
    utterances: int = 824
    by_cell: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, pilot: Analysis) -> Variances:
        """The SDs of a pilot, by cell; cells that the pilot lacks get the root mean square of the others.

        Raises InputError if no cell of the pilot has two seeds.
        """
        scores = pilot.scores
        count = len(scores.utterances)
        by_cell, seed_variances, residuals, crossed = {}, [], [], []
        for index in np.flatnonzero(scores.present.sum(1) > 1).tolist():
            block = scores.values[index][scores.present[index]]
            run_means = block.mean(-1)
            residual = 0.0
            if count > 1:
                rest = block - run_means[:, None] - block.mean(0) + block.mean()
                residual = float((rest**2).sum()) / ((len(block) - 1) * (count - 1))
            variance = max(float(run_means.var(ddof=1)) - residual / count, 0.0)
            at = scores.cell_levels[scores.cells[index]]
            by_cell[cell_key(label(at)) if at else BASELINE] = math.sqrt(variance)
            seed_variances.append(variance)
            residuals.append(residual)
        if not by_cell:
            raise InputError("no cell of the pilot has two seeds, so its variance is unknown; add a seed")
        for share, weights in zip(pilot.estimates.utterance_part, pilot.weights.to_numpy(), strict=True):
            size = float((weights**2).sum())
            if size > 0:
                crossed.append(float(share) * count / size)
        return cls(
            seed=math.sqrt(float(np.mean(seed_variances))),
            residual=math.sqrt(float(np.mean(residuals))),
            utterance_cell=math.sqrt(float(np.mean(crossed))) if crossed else 0.0,
            utterances=count,
            by_cell=by_cell,
        )


def cell_key(name: str) -> str:
    """A cell's name that does not depend on the order of its factors."""
    return ",".join(sorted(name.split(",")))


@lru_cache(maxsize=4096)
def noncentrality(df: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Ratio of effect to standard error that a two-sided t test detects with the given power."""
    critical = stats.norm.isf(alpha / 2) if math.isinf(df) else stats.t.isf(alpha / 2, df)

    def lacking(shift: float) -> float:
        if math.isinf(df):
            found = stats.norm.sf(critical - shift) + stats.norm.cdf(-critical - shift)
        else:
            # SciPy gives NaN in the far tail, where the probability is below 1e-15.
            found = stats.nct.sf(critical, df, shift) + np.nan_to_num(stats.nct.cdf(-critical, df, shift))
        return float(found) - power

    upper = 1.0
    while lacking(upper) < 0:
        upper *= 1.5
    return float(optimize.brentq(lacking, 0.0, upper))


def smallest_effect(se: float, df: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """The effect that a two-sided test at `alpha` detects with probability `power`."""
    if math.isnan(se) or math.isnan(df):
        return math.nan
    return se * noncentrality(round(df, 3), power, alpha)


@dataclass(frozen=True)
class PlannedDesign:
    """A design and the variances its estimates would have."""

    contrasts: ContrastSet
    trainings: int
    unit: Estimates

    def runs(self, seeds: int) -> int:
        return self.trainings * seeds


def make_plan(
    factors: Mapping[str, Sequence[str]],
    variances: Variances,
    *,
    design: str = "full",
    baseline: bool = True,
    evaluation_only: Collection[str] = (),
    constraints: Iterable[Mapping[str, str]] = (),
) -> PlannedDesign:
    """The variance that every contrast of a design would have; for the arguments see `plan`."""
    crossed = Design.of(factors, design, constraints)
    cells = {label(at): at for at in crossed.cells()}
    if baseline:
        cells[BASELINE] = {}
    found = build(crossed, cells, baseline=BASELINE if baseline else None, simple=())
    names = list(cells)
    weights = found.matrix(names)
    shared: dict[tuple[str, ...], list[int]] = {}
    for index, (name, at) in enumerate(cells.items()):
        training = tuple(level for factor, level in at.items() if factor not in evaluation_only)
        shared.setdefault((name,) if not at else training, []).append(index)
    groups = list(shared.values())
    by_cell = {cell_key(name): spread for name, spread in variances.by_cell.items()}
    seed = np.array([by_cell.get(cell_key(name), variances.seed) for name in names])
    noise = variances.residual**2 / variances.utterances
    parts: Array = np.zeros((len(weights), len(groups)))
    for g, group in enumerate(groups):
        w = weights[:, group]
        parts[:, g] = (w @ seed[group]) ** 2 + (w**2).sum(1) * noise
    extra = (weights**2).sum(1) * variances.utterance_cell**2 / variances.utterances
    unit = Estimates(
        value=np.zeros(len(weights)),
        seed_parts=parts,
        one_seed=parts,
        least=np.zeros_like(parts),
        seeds=(parts > 0).astype(int),
        utterance_part=extra,
        utterance_df=np.where(extra > 0, max(variances.utterances - 1, 1), np.inf),
        estimable=np.ones(len(weights), dtype=bool),
    )
    return PlannedDesign(found, len(groups), unit)


def plan(
    factors: Mapping[str, Sequence[str]],
    seeds: Iterable[int],
    *,
    variances: Variances | None = None,
    pilot: Analysis | None = None,
    design: str = "full",
    baseline: bool = True,
    evaluation_only: Collection[str] = (),
    constraints: Iterable[Mapping[str, str]] = (),
    power: float = 0.8,
    alpha: float = 0.05,
    hours: float | None = None,
) -> pd.DataFrame:
    """The smallest detectable gap, main effects and interactions for each number of seeds.

    Args:
        factors: factor -> levels, off first.
        seeds: numbers of seeds per cell; one seed cannot detect anything (NaN).
        variances: default: those of the pilot, else `Variances()`.
        pilot: an analysis of earlier runs.
        design: full, fractional, add-one or leave-one-out.
        baseline: whether a baseline cell is trained too.
        evaluation_only: factors whose levels share their runs.
        constraints: combinations of levels to leave out.
        power, alpha: power and significance level of the two-sided test.
        hours: hours per run.

    Returns:
        Columns design, seeds, runs, hours, kind, name, smallest_effect, half_width, se, df.
    """
    made = make_plan(
        factors,
        _variances(variances, pilot),
        design=design,
        baseline=baseline,
        evaluation_only=evaluation_only,
        constraints=constraints,
    )
    rows = []
    for count in seeds:
        se, df = made.unit.at_seeds(count)
        if count < 2:
            se, df = np.full_like(se, np.nan), np.full_like(df, np.nan)
        half = quantile(1 - alpha, df) * se
        for i, contrast in enumerate(made.contrasts.rows):
            if contrast.kind in ("gap", "main", "interaction"):
                rows.append(
                    {
                        "design": design,
                        "seeds": count,
                        "runs": made.runs(count),
                        "hours": made.runs(count) * hours if hours is not None else math.nan,
                        "kind": contrast.kind,
                        "name": contrast.name,
                        "smallest_effect": smallest_effect(float(se[i]), float(df[i]), power, alpha),
                        "half_width": float(half[i]),
                        "se": float(se[i]),
                        "df": float(df[i]),
                    }
                )
    return pd.DataFrame(rows)


def plan_table(table: pd.DataFrame) -> pd.DataFrame:
    """`plan` as a wide table: a row per number of seeds, a column per effect with its smallest size."""
    order = list(dict.fromkeys(table["name"]))
    wide = table.pivot(index=["seeds", "runs", "hours"], columns="name", values="smallest_effect")
    return wide[order].reset_index().rename_axis(columns=None)


def compare_designs(
    factors: Mapping[str, Sequence[str]],
    effect: float,
    *,
    variances: Variances | None = None,
    pilot: Analysis | None = None,
    baseline: bool = True,
    evaluation_only: Collection[str] = (),
    constraints: Iterable[Mapping[str, str]] = (),
    power: float = 0.8,
    alpha: float = 0.05,
    hours: float | None = None,
) -> pd.DataFrame:
    """Seeds and runs that each design needs to detect a main effect of size `effect` in every factor.

    Returns a row per design that fits the factors, the cheapest first: design, seeds, runs, hours,
    smallest_effect (of the least certain factor), interactions (whether it estimates them), cheapest, note.
    Seeds are NaN if 200 are not enough. For the other arguments see `plan`.

    Raises InputError if `effect` is not positive.
    """
    if effect <= 0:
        raise InputError(f"the effect size {effect} is not above zero")
    variances = _variances(variances, pilot)
    rows = []
    for design in KINDS:
        try:
            made = make_plan(
                factors,
                variances,
                design=design,
                baseline=baseline,
                evaluation_only=evaluation_only,
                constraints=constraints,
            )
        except InputError:
            continue
        main = [i for i, c in enumerate(made.contrasts.rows) if c.kind == "main"]

        def worst(seeds: int, made: PlannedDesign = made, main: Sequence[int] = tuple(main)) -> float:
            se, df = made.unit.at_seeds(seeds)
            return max(smallest_effect(float(se[i]), float(df[i]), power, alpha) for i in main)

        seeds = next((s for s in range(2, MOST_SEEDS + 1) if worst(s) <= effect), None)
        runs = math.nan if seeds is None else made.runs(seeds)
        rows.append(
            {
                "design": design,
                "seeds": math.nan if seeds is None else seeds,
                "runs": runs,
                "hours": math.nan if hours is None else runs * hours,
                "smallest_effect": worst(seeds or MOST_SEEDS),
                "interactions": any(c.kind == "interaction" for c in made.contrasts.rows),
                "note": "" if design == "full" else "main effects are aliased with interactions",
            }
        )
    table = pd.DataFrame(rows).sort_values("runs", kind="stable", ignore_index=True)
    table.insert(6, "cheapest", table["runs"] == table["runs"].min())
    return table


def _variances(given: Variances | None, pilot: Analysis | None) -> Variances:
    """Those given, else those of the pilot, else the defaults."""
    return given or (Variances.of(pilot) if pilot is not None else Variances())
