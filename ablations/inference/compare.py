"""Compares two systems by a few runs each: do they differ by more than runs of one system do?

With n and m runs, and S the SD between runs of one system, they differ if |d| > t S sqrt(1/n + 1/m). If S was
measured on these systems (4 degrees of freedom or more), the test can separate a difference from chance. If S
is borrowed from elsewhere, it is a range, and each of its ends gives an answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import integrate, stats

from ablate.models.errors import InputError

ENOUGH_DF = 4
MOST_RUNS = 200
FINEST = 0.005
"""Upper bound of an SD that was printed as .00."""


@dataclass(frozen=True)
class Spread:
    """The SD between runs of one system: measured, with `df` degrees of freedom, or borrowed from elsewhere
    as a range, with `df` None."""

    low: float
    high: float
    df: int | None
    source: str


@dataclass(frozen=True)
class Comparison:
    """The difference between the mean scores of two sets of runs.

    Attributes:
        verdict: `differs`, `within luck` or `cannot be told`.
        critical: SD -> the smallest difference that counts.
        runs: SD -> number of our runs (theirs unchanged), and of runs of each system, that would show this
            difference; None if more than 200.
        best_of: if theirs is the best of several runs, SD -> how far the best is expected above their mean,
            and the probability of a difference this large by chance.
    """

    difference: float
    ours: int
    theirs: int
    spread: Spread
    verdict: str
    critical: dict[float, float]
    runs: dict[float, tuple[int | None, int | None]]
    best_of: dict[float, tuple[float, float]] = field(default_factory=dict)


def pooled_spread(groups: Sequence[Sequence[float]], source: str) -> Spread | None:
    """The SD within groups of runs; None if no group has two."""
    parts = [(np.var(group, ddof=1), len(group) - 1) for group in groups if len(group) > 1]
    df = sum(part for _, part in parts)
    if not df:
        return None
    sd = math.sqrt(sum(variance * part for variance, part in parts) / df)
    return Spread(sd, sd, df, source)


def compare(
    ours: Sequence[float],
    theirs: Sequence[float],
    spread: Spread,
    *,
    best_of: int | None = None,
    confidence: float = 0.95,
) -> Comparison:
    """Whether two systems differ by more than chance.

    Args:
        ours, theirs: scores of one or more runs each.
        best_of: number of runs of which theirs is the best.

    Raises:
        InputError: a score is missing or not finite, an SD is negative, or `best_of` does not fit.
    """
    for name, scores in (("ours", ours), ("theirs", theirs)):
        if not scores or not all(map(math.isfinite, scores)):
            raise InputError(f"scores of {name} are {list(scores)}; give at least one number")
    if not 0 <= spread.low <= spread.high < math.inf:
        raise InputError(f"the SD {spread.low}..{spread.high} is not valid; give low..high, 0 or more")
    if best_of is not None and (best_of < 2 or len(theirs) > 1):
        raise InputError(f"--best-of {best_of} needs one score of theirs, and at least two runs")
    n, m = len(ours), len(theirs)
    d = float(np.mean(ours) - np.mean(theirs))
    sds = sorted({spread.low, spread.high})
    critical = {sd: _critical(sd, n, m, spread.df, confidence) for sd in sds}
    beyond = [abs(d) > limit for limit in critical.values()]
    if all(beyond):
        verdict = "differs"
    else:
        verdict = "within luck" if (spread.df or 0) >= ENOUGH_DF else "cannot be told"
    return Comparison(
        d,
        n,
        m,
        spread,
        verdict,
        critical,
        {sd: _runs(d, sd, n, m, spread, confidence) for sd in sds},
        {sd: _of_best(d, sd, n, best_of) for sd in sds} if best_of else {},
    )


def _critical(sd: float, n: int, m: int, df: int | None, confidence: float) -> float:
    upper = (1 + confidence) / 2
    t = stats.norm.ppf(upper) if df is None else stats.t.ppf(upper, df)
    return float(t * sd * math.sqrt(1 / n + 1 / m))


def _runs(
    d: float, sd: float, n: int, m: int, spread: Spread, confidence: float
) -> tuple[int | None, int | None]:
    """Number of our runs (theirs unchanged), and of runs of each system, that would show the difference."""

    def enough(ours: int, theirs: int) -> bool:
        df = None if spread.df is None else spread.df + ours - n + theirs - m
        return abs(d) > _critical(sd, ours, theirs, df, confidence)

    mine = next((k for k in range(n, MOST_RUNS + 1) if enough(k, m)), None)
    both = next((k for k in range(max(n, m), MOST_RUNS + 1) if enough(k, k)), None)
    return mine, both


def _of_best(d: float, sd: float, n: int, best_of: int) -> tuple[float, float]:
    """How far the best of several runs is expected above their mean, and the probability of this difference.

    The probability is two-sided, for a difference of this size or more between the mean of n runs and that
    best, if all runs are of one system.
    """

    def density(x: float) -> float:
        return float(best_of * stats.norm.pdf(x) * stats.norm.cdf(x) ** (best_of - 1))

    above = integrate.quad(lambda x: x * density(x), -9, 9)[0]
    if sd == 0:
        return 0.0, float(d == 0)
    below = integrate.quad(lambda x: density(x) * stats.norm.cdf((d / sd + x) * math.sqrt(n)), -9, 9)[0]
    return sd * above, min(1.0, 2 * min(below, 1 - below))
