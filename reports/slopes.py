"""Whether effects still change at the end of the training: contrasts of the slopes of the runs' curves."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ablate.ablations.inference.contrasts import weight_matrix
from ablate.ablations.inference.engine import estimate
from ablate.models.errors import listed

from .convergence import points
from .formatting import known

if TYPE_CHECKING:
    from ablate.ablations.inference.analysis import Analysis

    from .sources import StudyInfo

FEWEST = 3
"""Minimum number of validations for a slope."""
SLOW = 0.5
"""If the learning rate ends below this fraction of its initial value, that alone flattens the curve."""
ROUNDING = 1e-9
"""A slope below this counts as zero."""
PER = 100
"""Slopes are per this many steps."""
SPEED = "also an effect on learning speed"


@dataclass(frozen=True)
class Slope:
    """How fast an effect on validation PESQ-WB still changes over the last third of the steps.

    Attributes:
        estimate, low, high: PESQ per `PER` steps; None without an interval or a usable curve.
        why: reason for a missing estimate: `few validations`, `annealed` or `unknown schedule`; else empty.
    """

    name: str
    kind: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""

    @property
    def rate(self) -> str:
        """The estimate with two significant digits, since slopes are small in long runs."""
        return _figures(self.estimate) if known(self.estimate) else ""

    @property
    def spread(self) -> str:
        low, high = self.low, self.high
        return f"[{_figures(low)}, {_figures(high)}]" if known(low) and known(high) else ""

    @property
    def is_shown(self) -> bool:
        return known(self.low) and known(self.high) and (self.low > ROUNDING or self.high < -ROUNDING)


def _figures(value: float) -> str:
    return f"{value if abs(value) > ROUNDING else 0.0:+.2g}"


def end_slope(curve: Sequence[tuple[int, float]]) -> float | None:
    """Least-squares slope per `PER` steps over the last third of a run's steps.

    None if there are fewer than three validations.
    """
    trained = [(step, value) for step, value in curve if step > 0]
    if len(trained) < FEWEST:
        return None
    late = [point for point in trained if point[0] >= trained[-1][0] * 2 / 3]
    steps, values = np.array(late if len(late) >= FEWEST else trained[-FEWEST:]).T
    centred = steps - steps.mean()
    return float(PER * (centred @ values) / (centred @ centred))


def slopes(analysis: Analysis, info: StudyInfo, wanted: Collection[tuple[str, str]]) -> list[Slope]:
    """The slopes of the contrasts in `wanted`, given as (kind, name); empty for results trained elsewhere.

    Intervals are Welch's, over the runs' slopes, and cover other runs on the same validation files.
    """
    data, cells = analysis.scores, info.cells
    runs = [run for run in info.runs if run.scored and run.cell in cells]
    curves = {(run.cell, run.seed): curve for run in runs if (curve := points(run.metrics))}
    if info.plan is None:
        return []
    recipes = {cell.name: cell.config.recipe for cell in info.plan.networks}
    values = np.full((len(data.cells), len(data.seeds), 1), np.nan)
    for (cell, seed), curve in curves.items():
        if cell in data.cells and seed in data.seeds and (slope := end_slope(curve)) is not None:
            values[data.cells.index(cell), data.seeds.index(seed)] = slope
    present = np.isfinite(values[..., 0]) & data.present
    short = {cell for i, cell in enumerate(data.cells) if not np.array_equal(present[i], data.present[i])}
    reasons = {
        "few validations": short,
        "annealed": {name for name, recipe in recipes.items() if recipe.scheduled(1.0) < SLOW},
        "unknown schedule": cells.keys() - recipes.keys(),
    }
    found = []
    for contrast in analysis.contrasts:
        if (contrast.kind, contrast.name) in wanted:
            involved = {cell for cell, weight in contrast.weights.items() if weight}
            why = next((why for why, which in reasons.items() if involved & which), "")
            found.append((contrast, why))
    told = [contrast for contrast, why in found if not why]
    numbers: Iterator[tuple[float, float, float]] = iter(())
    if told:
        kept = np.flatnonzero(present.any(1)).tolist()
        weights = weight_matrix(told, [data.cells[index] for index in kept])
        result = estimate(values[kept], weights, data.groups_of(kept), present[kept])
        bounds = (result.value, *result.interval(analysis.confidence))
        numbers = zip(*(each.tolist() for each in bounds), strict=True)
    return [
        Slope(c.name, c.kind, why=why) if why else Slope(c.name, c.kind, *next(numbers)) for c, why in found
    ]


def slope_lines(found: Sequence[Slope], percent: str, other_lengths: bool = False) -> list[str]:
    """The slopes as sentences. `other_lengths` is whether other step budgets were or can be trained."""

    def of(why: str) -> str | None:
        """The names of the effects with this reason, in brackets if not all have it; None if none has."""
        named = [slope.name for slope in found if slope.why == why]
        return None if not named else "" if len(named) == len(found) else f" ({listed(named)})"

    lines = []
    if (few := of("few validations")) is not None:
        lines.append(
            f"Fewer than {FEWEST} validations{few}: convergence cannot be assessed, and effects "
            "may reflect learning speed."
        )
    if (annealed := of("annealed")) is not None:
        lines.append(
            f"The learning rate falls below {SLOW:.0%} of its initial value, which flattens every "
            f"curve{annealed}: the slope does not show what longer training would change"
            + ("." if other_lengths else "; ablate run --step-fractions 0.5,1 does.")
        )
    if (unknown := of("unknown schedule")) is not None:
        lines.append(
            f"The command's learning-rate schedule is unknown{unknown}: it may flatten the end of a "
            "curve, so the slope does not show what longer training would change."
        )
    read = [slope for slope in found if not slope.why]
    for slope in read:
        if slope.is_shown:
            assert slope.estimate is not None
            moving = "rising" if slope.estimate > 0 else "falling"
            lines.append(
                f"{slope.name} is still {moving} by {abs(slope.estimate):.2g} validation PESQ-WB per "
                f"{PER} steps ({percent} interval {slope.spread}): this is {SPEED}."
            )
    alone = [slope.name for slope in read if not (known(slope.low) and known(slope.high))]
    if alone:
        lines.append(f"Only one seed: it is not known whether {listed(alone)} still changes at the end.")
    still = [slope for slope in read if not slope.is_shown and slope.name not in alone]
    if still:
        each = [f"{slope.name} {slope.rate} {slope.spread}" for slope in still]
        lines.append(
            f"No significant change at the end (validation PESQ-WB / {PER} steps): {'; '.join(each)}."
        )
    return lines
