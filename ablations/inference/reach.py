"""Factors without any effect: all pairs of cells that differ in one factor have exactly equal scores.

Two runs that differ in any computation do not have equal scores. Single equal pairs are legitimate (a weight
that only a discriminator uses, a clip that never clips in one cell). If all pairs are equal, the level does
not reach the code where it should act, and the estimate is the difference of a run from itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..design import flip, positions
from .engine import Array
from .scores import Scores

CODE = "A204"
"""Code of the audit's finding."""


@dataclass(frozen=True)
class Unreached:
    """A level that did not change any score.

    Attributes:
        pairs: pairs of cells.
        runs: number of pairs of runs that were compared.
        certain: whether the scores are unrounded and of single utterances; rounding may hide a difference.
    """

    pairs: tuple[tuple[str, str], ...]
    runs: int
    certain: bool

    def __str__(self) -> str:
        (off, on), more = self.pairs[0], len(self.pairs) - 1
        others = f" and {more} more pair{'s' * (more > 1)} of cells" if more else ""
        return (
            f"the scores of {on} are equal to those of {off}{others} to the last digit, in "
            f"{self.runs} pairs of runs"
        )


def unreached(data: Scores) -> dict[str, Unreached]:
    """Effect name -> its level, if all pairs of cells that differ in it have equal scores.

    Pairs are compared at the seeds that both cells have. Cells that share runs are skipped, and so are runs
    with one score throughout (an output at the metric's floor).
    """
    certain = len(data.utterances) > 1 and not np.array_equal(
        data.values.round(4), data.values, equal_nan=True
    )
    group = {cell: g for g, members in enumerate(data.groups) for cell in members}
    found = {}
    for name, pairs in _pairs(data).items():
        compared = [
            (pair, np.array_equal(*runs))
            for pair in pairs
            if group[pair[0]] != group[pair[1]]
            for runs in _common(data, *pair)
        ]
        if compared and all(same for _, same in compared):
            which = dict.fromkeys(pair for pair, _ in compared)
            cells = tuple((data.cells[off], data.cells[on]) for off, on in which)
            found[name] = Unreached(cells, len(compared), certain)
    return found


def _pairs(data: Scores) -> dict[str, list[tuple[int, int]]]:
    """Effect -> pairs of scored cells that differ in it alone, the first level first."""
    index = {data.cells[i]: i for i in data.scored()}
    cells = {cell: levels for cell, levels in data.cell_levels.items() if cell in index}
    at = positions(cells, data.levels) if data.levels else {}
    found: dict[str, list[tuple[int, int]]] = {}
    for place, factor in enumerate(data.levels):
        for name, level in data.layout.design.steps(factor):
            found[name] = [
                (index[at[flip(key, place, 0)]], index[cell])
                for key, cell in at.items()
                if key[place] == level and flip(key, place, 0) in at
            ]
    return found


def _common(data: Scores, off: int, on: int) -> Iterator[tuple[Array, Array]]:
    """The scores of two cells at each seed that both have."""
    for seed in np.flatnonzero(data.present[off] & data.present[on]):
        one, two = data.values[off, seed], data.values[on, seed]
        if len(one) == 1 or not ((one == one[0]).all() and (two == two[0]).all()):
            yield one, two
