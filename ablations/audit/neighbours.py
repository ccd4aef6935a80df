"""Pairs of cells of a grid. Does not need torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from ablate.models.errors import listed
from ablate.training.config import RunConfig

from ..diff import differences, propose
from ..factors import Factor
from ..grid import Cell
from .finding import Finding

AnyCell = TypeVar("AnyCell", bound=Cell[Any])


MATCH = {"recipe.match"}
"""A factor of these paths alone may have no effect: a network that already has the size keeps its width."""
MEASURED = 32
"""Maximum number of distinct networks of a grid to measure; each takes seconds to minutes."""


def measured(cells: Sequence[AnyCell], key: Callable[[AnyCell], str], most: int = MEASURED) -> list[AnyCell]:
    """The cells of the first `most` distinct networks.

    The base comes first, then the baseline and the cells that differ from the base in the fewest factors, so
    each level is seen next to the base.
    """
    base = next((cell for cell in cells if cell.levels), None)

    def distance(cell: AnyCell) -> int:
        return sum(base is not None and base.levels.get(name) != level for name, level in cell.levels.items())

    keys = dict.fromkeys(key(cell) for cell in sorted(cells, key=distance))
    chosen = set(list(keys)[:most])
    return [cell for cell in cells if key(cell) in chosen]


def ends(cells: Sequence[AnyCell], factors: Sequence[Factor]) -> tuple[AnyCell | None, AnyCell | None]:
    """The ends of the gap: the base (every factor off) and the baseline; None for a missing one."""
    base = next((c for c in cells if c.levels and all(c.levels[f.name] == f.off for f in factors)), None)
    baseline = next((c for c in cells if not c.levels), None)
    return base, baseline


def neighbours(cells: Sequence[AnyCell], factor: Factor) -> Iterator[tuple[AnyCell, AnyCell]]:
    """Pairs of cells that differ in this factor alone, the earlier level first."""
    order = {level: index for index, level in enumerate(factor.levels)}
    rows: dict[tuple[tuple[str, str], ...], list[AnyCell]] = {}
    for cell in cells:
        if factor.name in cell.levels:
            rest = tuple(sorted(item for item in cell.levels.items() if item[0] != factor.name))
            rows.setdefault(rest, []).append(cell)
    for row in rows.values():
        yield from itertools.combinations(sorted(row, key=lambda c: order[c.levels[factor.name]]), 2)


def alike(
    cells: Sequence[AnyCell], factors: Sequence[Factor], same: Callable[[AnyCell, AnyCell], str | None]
) -> Iterator[Finding]:
    """A201: two levels of a factor that give equivalent cells.

    Args:
        same: returns why two cells are equivalent, or None if they are not.
    """
    for factor in factors:
        found: dict[tuple[str, str], list[str]] = {}
        effective: set[tuple[str, str]] = set()
        for a, b in neighbours(cells, factor):
            levels = (a.levels[factor.name], b.levels[factor.name])
            why = same(a, b)
            if why is None:
                effective.add(levels)
            else:
                found.setdefault(levels, []).append(f"{a.name} and {b.name}: {why}")
        for levels, pairs in found.items():
            everywhere = levels not in effective
            more = f" and {len(pairs) - 2} more" if len(pairs) > 2 else ""
            where = "" if everywhere else "in some cells "
            yield Finding.of(
                "A201",
                factor.name,
                f"{levels[0]} and {levels[1]} make no difference {where}({'; '.join(pairs[:2])}{more})",
                "nothing: these cells share their runs"
                if factor.paths == MATCH
                else "correct the level, or leave the factor out: its effect would be noise",
                severity="error" if everywhere and factor.paths != MATCH else "note",
            )


def untoggled(
    cells: Sequence[AnyCell], factors: Sequence[Factor], defaults: Mapping[str, Any] | None = None
) -> Iterator[Finding]:
    """A301: differences between base and baseline that no factor covers."""
    base, baseline = ends(cells, factors)
    if base is None or baseline is None:
        return
    found = [
        d
        for d in differences(base.config, baseline.config, factors, defaults or {})
        if d.group == "not toggled"
    ]
    if found:
        remedy = "make these factors too, to split the gap"
        if isinstance(base.config, RunConfig) and isinstance(baseline.config, RunConfig):
            remedy = f"to cover them, run: {propose(base.config, baseline.config, factors)}"
        yield Finding.of(
            "A301",
            f"{base.name} and {baseline.name}",
            f"no factor covers {listed([f'{d.path} {d.a} -> {d.b}' for d in found])}",
            f"the factors do not add up to the gap; {remedy}",
        )
