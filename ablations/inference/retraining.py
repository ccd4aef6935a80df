"""Probability of improvement: how often one run with a factor on scores above one with it off.

An interval is about the mean over runs; this is about two single runs, as when each system is retrained once
(Bouthillier et al. 2021, arXiv 2103.03098). With few runs, the share of pairs says little about the
probability (if that is .84, three runs a side win all their pairs in .4 of cases). So pairs are counted, and
the probability gets an interval only from `ENOUGH` runs a side on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq

from ..design import flip, positions
from .contrasts import Contrast
from .engine import Array, quantile
from .scores import Scores

ENOUGH = 10


class Higher(NamedTuple):
    """Pairs of runs in which the one on the contrast's positive side has the higher mean score.

    Attributes:
        p_higher: share of such pairs, weighted over the pairs of cells that differ in the factor alone.
        pairs_higher: number of such pairs out of `pairs`; ties count half.
        p_higher_low, p_higher_high: interval of the probability; NaN below `ENOUGH` runs a side.
    """

    p_higher: float = math.nan
    pairs_higher: float = math.nan
    pairs: float = math.nan
    p_higher_low: float = math.nan
    p_higher_high: float = math.nan


class _Wins(NamedTuple):
    """Two cells' pairs of runs: pairs won, all pairs, runs a side, and whether the cells share their runs."""

    won: float
    pairs: int
    sides: tuple[int, int]
    shared: bool

    def variance(self, theta: float) -> float:
        """Variance of the share of pairs won, given the probability (Newcombe 2006, Statistics in Medicine
        25, method 5; binomial for shared runs)."""
        if self.shared:
            return theta * (1 - theta) / self.pairs
        more = sum(self.sides) / 2 - 1
        spread = 1 + more * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return theta * (1 - theta) * spread / self.pairs


def higher(contrasts: Sequence[Contrast], data: Scores, confidence: float) -> list[Higher]:
    """For each contrast, how often a run on its positive side has the higher mean score.

    It compares the pairs of cells that differ in the factor alone, at all pairs of seeds (at equal seeds if
    two cells share runs). NaN if the contrast is not an average of such pairs (interactions, the main effects
    of a fraction).
    """
    cell_at = positions(data.cell_levels, data.levels) if data.levels else {}
    key_of = {cell: key for key, cell in cell_at.items()}
    factors = list(data.levels)

    def pairs(contrast: Contrast) -> Iterator[tuple[str, str | None, float]]:
        above = [(cell, weight) for cell, weight in contrast.weights.items() if weight > 0]
        below = [cell for cell, weight in contrast.weights.items() if weight < 0]
        if len(above) == len(below) == 1:
            yield above[0][0], below[0], 1.0
        elif len(contrast.factors) == 1:
            place = factors.index(contrast.factors[0])
            for cell, weight in above:
                yield cell, cell_at.get(flip(key_of[cell], place, 0)), weight

    index = {cell: i for i, cell in enumerate(data.cells)}
    group = {cell: g for g, members in enumerate(data.groups) for cell in members}
    means = data.values.mean(-1)
    z = float(quantile(confidence, np.array(np.inf)))
    known: dict[tuple[int, int], _Wins] = {}
    found = []
    for contrast in contrasts:
        strata: list[tuple[float, _Wins]] = []
        for on, off, weight in pairs(contrast):
            if off is None or off not in contrast.weights:
                strata = []
                break
            pair = index[on], index[off]
            if pair not in known:
                known[pair] = _wins(
                    means[list(pair)], data.present[list(pair)], group[pair[0]] == group[pair[1]]
                )
            strata.append((weight, known[pair]))
        found.append(_summed(strata, z))
    return found


def _wins(means: Array, present: Array, shared: bool) -> _Wins:
    """Pairs of seeds in which the first of two cells (cell, seed) is above the second."""
    if shared:
        common = present.all(0)
        above = means[0, common] - means[1, common]
    else:
        above = np.subtract.outer(means[0, present[0]], means[1, present[1]])
    sides = (above.size, above.size) if shared else above.shape
    return _Wins(float(((above > 0) + 0.5 * (above == 0)).sum()), above.size, (sides[0], sides[1]), shared)


def _summed(strata: Sequence[tuple[float, _Wins]], z: float) -> Higher:
    if not strata or not all(wins.pairs for _, wins in strata):
        return Higher()
    total = sum(weight for weight, _ in strata)
    shares = [(weight / total, wins) for weight, wins in strata]
    share = sum(weight * wins.won / wins.pairs for weight, wins in shares)
    won, pairs = sum(wins.won for _, wins in strata), sum(wins.pairs for _, wins in strata)
    if min(min(wins.sides) for _, wins in strata) < ENOUGH:
        return Higher(share, won, pairs)

    def beyond(theta: float) -> float:
        variance = sum(weight**2 * wins.variance(theta) for weight, wins in shares)
        return (share - theta) ** 2 - z**2 * variance

    inner = 1e-9
    low = brentq(beyond, 0.0, share - inner) if share > inner else 0.0
    high = brentq(beyond, share + inner, 1.0) if share < 1 - inner else 1.0
    return Higher(share, won, pairs, low, high)
