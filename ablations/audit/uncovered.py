"""A302 and A303: changes of network size that come with a factor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..factors import Factor
from ..grid import Cell
from ..match import SIZES, WORDS, off_by
from .finding import Finding
from .neighbours import neighbours
from .network_under_test import subject

CONFOUND = 0.02
"""Smallest relative change of the parameter count that is worth a note."""


def capacity(cells: Sequence[Cell], factors: Sequence[Factor]) -> Iterator[Finding]:
    """A302: a level that changes the parameter count by more than 2 %."""
    for factor in factors:
        changes: dict[tuple[str, str], list[float]] = {}
        for a, b in neighbours(cells, factor):
            counts = [subject(c.config.model, c.config.recipe).parameters for c in (a, b)]
            changes.setdefault((a.levels[factor.name], b.levels[factor.name]), []).append(
                counts[1] / counts[0] - 1
            )
        for (low, high), shares in changes.items():
            if max(map(abs, shares)) > CONFOUND:
                ends = dict.fromkeys(f"{share:+.1%}" for share in (min(shares), max(shares)))
                yield Finding.of(
                    "A302",
                    factor.name,
                    f"{high} has {' to '.join(ends)} parameters against {low}",
                    "its effect includes that of size; match the counts by width, or report this with it",
                )


def equal_size(cells: Sequence[Cell], factors: Sequence[Factor]) -> Iterator[Finding]:
    """A303: the widths at which cells match the base's size, and their deviation."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        measure = cell.config.recipe.match
        wanted = {f.name: cell.levels.get(f.name) if f.paths & SIZES else f.off for f in factors}
        reference = next((c for c in cells if c.levels == wanted), None)
        if measure != "free" and cell.levels and reference is not None:
            found.setdefault(measure, []).append(f"{cell.name} {off_by(cell.config, reference.config)}")
    for of, texts in found.items():
        yield Finding.of(
            "A303",
            "study",
            f"effects are at equal {WORDS[of]}: {'; '.join(texts)}",
            "nothing to fix; differences up to 3 % count as equal",
        )
