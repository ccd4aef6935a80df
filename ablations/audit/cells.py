"""The cells of a grid, side by side. Needs no torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TypeVar

from ..factors import Factor
from ..grid import Combination

AnyCell = TypeVar("AnyCell", bound=Combination)


def neighbours(cells: Sequence[AnyCell], factor: Factor) -> Iterator[tuple[AnyCell, AnyCell]]:
    """Pairs of cells that differ in this factor alone, the lower level first."""
    order = {level: index for index, level in enumerate(factor.levels)}
    rows: dict[tuple[tuple[str, str], ...], list[AnyCell]] = {}
    for cell in cells:
        if factor.name in cell.levels:
            rest = tuple(sorted(item for item in cell.levels.items() if item[0] != factor.name))
            rows.setdefault(rest, []).append(cell)
    for row in rows.values():
        yield from itertools.combinations(sorted(row, key=lambda c: order[c.levels[factor.name]]), 2)
