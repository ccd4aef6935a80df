"""Effects by speaker and by noise: their range, the effect without one of them, an interval for others.

The headline's interval takes the test speakers and noises as given. This module shows how much depends on
each: the estimate within every unit (a speaker, or a noise), the estimate without each, and, with `FEWEST`
units or more, a secondary interval for other units of the same kind. Its variance is

    the seeds' part of `engine`  +  K/(K-1) sum_k (n_k/N)^2 (d_k - d)^2

where d_k is the contrast within unit k, which has n_k of the N utterances, and d the contrast over all. The
second part has K - 1 degrees of freedom (Cameron and Miller 2015, Journal of Human Resources 50, on clustered
errors).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .contrasts import Contrast, weight_matrix
from .engine import Array, quantile, satterthwaite
from .scores import Scores

FEWEST = 4
"""Minimum number of units for an interval for other units."""
COLUMNS = {"speaker": "speakers", "noise": "noises"}


class ByUnit(NamedTuple):
    """An effect over the units of a kind.

    Attributes:
        column: `speaker` or `noise`.
        units: number of units.
        least, most: the smallest and largest estimate within a unit; `least_in` and `most_in` name the units.
        without: the unit whose removal reduces the estimate most; `without_estimate`, `without_low` and
            `without_high` are the estimate and interval without it.
        carried: whether the headline's interval excludes zero, but without that unit the interval includes
            zero or the estimate is at most half as large.
        others_low, others_high: interval for other units; NaN with fewer than `FEWEST`.
    """

    column: str
    name: str
    kind: str
    units: int
    least: float
    least_in: str
    most: float
    most_in: str
    without: str
    without_estimate: float
    without_low: float
    without_high: float
    carried: bool
    others_low: float
    others_high: float


def by_unit(contrasts: Sequence[Contrast], data: Scores, confidence: float) -> list[ByUnit]:
    """A `ByUnit` for each contrast and each kind of unit (speaker, noise) with two or more units."""
    weights = weight_matrix(contrasts, [data.cells[i] for i in data.scored()])
    found = []
    for column in COLUMNS:
        if column not in data.utterance_info or data.utterance_info[column].nunique() < 2:
            continue
        places = data.utterance_info.groupby(column, sort=True, observed=True).indices
        names = [str(name) for name in places]
        units = np.full(len(data.utterances), -1)
        for place, rows in enumerate(places.values()):
            units[rows] = place
        found += _of_column(column, names, units, contrasts, weights, data, confidence)
    return found


def carried_lines(found: Sequence[ByUnit]) -> list[str]:
    """A sentence for each effect that depends on one speaker or noise."""
    return [
        f"{row.name} depends on one {row.column}, {row.without}: without it {row.without_estimate:+.3f} "
        f"[{row.without_low:+.3f}, {row.without_high:+.3f}]."
        for row in found
        if row.carried
    ]


def _of_column(
    column: str,
    names: Sequence[str],
    units: Array,
    contrasts: Sequence[Contrast],
    weights: Array,
    data: Scores,
    confidence: float,
) -> list[ByUnit]:
    whole = data.estimate(weights)
    low, high = whole.interval(confidence)
    within = np.stack([data.estimate(weights, units == place).value for place in range(len(names))])
    left = [data.estimate(weights, (units != place) & (units >= 0)) for place in range(len(names))]
    ends = np.array([each.interval(confidence) for each in left])
    half = others(whole.seed_parts, whole.seeds - 1, within, np.bincount(units[units >= 0]), confidence)
    value, sign = whole.value, np.sign(whole.value)
    values = np.stack([each.value for each in left])
    least, most = within.argmin(0), within.argmax(0)
    nearest = (values * np.where(sign == 0, 1.0, sign)).argmin(0)

    def of_nearest(each: Array) -> Array:
        return np.take_along_axis(each, nearest[None], 0)[0]

    without, bottom, top = (of_nearest(np.asarray(each)) for each in (values, ends[:, 0], ends[:, 1]))
    hidden = ((bottom <= 0) & (top >= 0)) | (without * sign <= np.abs(value) / 2)
    carried = ((low > 0) | (high < 0)) & hidden
    named = [[names[place] for place in places] for places in (least, most, nearest)]
    columns = (
        *(within.min(0).tolist(), named[0], within.max(0).tolist(), named[1], named[2]),
        *(each.tolist() for each in (without, bottom, top, carried, value - half, value + half)),
    )
    return [
        ByUnit(column, contrast.name, contrast.kind, len(names), *row)
        for contrast, row in zip(contrasts, zip(*columns, strict=True), strict=True)
    ]


def others(seed_parts: Array, seed_df: Array, within: Array, sizes: Array, confidence: float) -> Array:
    """Half-widths (..., contrast) of intervals for other units.

    Args:
        seed_parts: (..., contrast, group) the seeds' parts of the headline's variance.
        seed_df: (contrast, group) their degrees of freedom.
        within: (unit, ..., contrast) estimates within each unit.
        sizes: (unit,) number of utterances of each.
    """
    count = len(sizes)
    if count < FEWEST:
        return np.full(within.shape[1:], math.nan)
    share = (sizes / sizes.sum()).reshape(-1, *[1] * (within.ndim - 1))
    mean = (share * within).sum(0)
    clustered = count / (count - 1) * (share**2 * (within - mean) ** 2).sum(0)
    variance = seed_parts.sum(-1) + clustered
    df = satterthwaite(variance, seed_parts, seed_df, clustered, np.full_like(clustered, count - 1))
    return quantile(confidence, df) * np.sqrt(variance)
