"""P(on > off): how often one retraining with a factor on scores above one with it off.

An interval speaks of the mean over trainings; this speaks of two single trainings, as somebody who retrains
each once would see them (Bouthillier et al. 2021, arXiv 2103.03098).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ..design import flip, positions
from .contrasts import Contrast
from .engine import Array
from .scores import Scores


def p_higher(contrasts: Sequence[Contrast], data: Scores) -> list[float]:
    """For each contrast the probability that a training on its positive side has the higher mean score.

    Over the pairs of cells that differ in the factor alone, by their weight, and all their pairs of seeds
    (the same seeds where two cells share trainings); ties count half. NaN where a contrast is no average of
    such pairs (interactions, the main effects of a fraction).
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
    known: dict[tuple[int, int], float] = {}
    found = []
    for contrast in contrasts:
        total = wins = 0.0
        for on, off, weight in pairs(contrast):
            if off is None or off not in contrast.weights:
                total = 0.0
                break
            pair = index[on], index[off]
            if pair not in known:
                known[pair] = _wins(
                    means[list(pair)], data.present[list(pair)], group[pair[0]] == group[pair[1]]
                )
            total, wins = total + weight, wins + weight * known[pair]
        found.append(wins / total if total else math.nan)
    return found


def _wins(means: Array, present: Array, shared: bool) -> float:
    """Share of pairs of seeds in which the first of two cells (cell, seed) is above the second."""
    if shared:
        common = present.all(0)
        above = means[0, common] - means[1, common]
    else:
        above = np.subtract.outer(means[0, present[0]], means[1, present[1]])
    return float(((above > 0) + 0.5 * (above == 0)).mean()) if above.size else math.nan
