"""Contrasts: named weights over the cells of a factorial.

Signs: an effect is on minus off; the gap is baseline minus base. A factor's first level is *off*, its last
level *on*. Every estimate in a report is one of these weight vectors times the vector of cell means.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from math import factorial
from typing import TYPE_CHECKING, NamedTuple

from ..design import Design, Key, flip, label, positions

if TYPE_CHECKING:
    import numpy as np

MOST_CELLS_WITH_SIMPLE_EFFECTS = 128
KINDS = ("gap", "main", "shapley", "unexplained", "interaction", "leave-one-out", "add-one", "simple")


@dataclass(frozen=True)
class Contrast:
    """Weights over cells. `at` holds the levels of the other factors of a simple effect."""

    name: str
    kind: str
    weights: Mapping[str, float]
    at: str = ""
    factors: tuple[str, ...] = ()


class NotEstimable(NamedTuple):
    """A contrast that the scored cells cannot estimate, and the missing cells."""

    kind: str
    name: str
    missing: tuple[str, ...]
    at: str = ""


@dataclass(frozen=True)
class ContrastSet:
    """All contrasts of a design, those it cannot estimate, and its aliases.

    `design` is `full` (every combination has scores), `fractional`, `add-one`, `leave-one-out` or
    `incomplete`.
    """

    rows: tuple[Contrast, ...]
    design: str
    not_estimable: tuple[NotEstimable, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def declared(self, kind: str) -> int:
        """Number of contrasts of a kind that the design has, including those that are not estimable."""
        return [*(c.kind for c in self.rows), *(c.kind for c in self.not_estimable)].count(kind)

    def matrix(self, cells: Sequence[str]) -> np.ndarray:
        """The weights as an array (contrast, cell), the cells in the given order."""
        return weight_matrix(self.rows, cells)


def weight_matrix(contrasts: Sequence[Contrast], cells: Sequence[str]) -> np.ndarray:
    """Weights as an array (contrast, cell), the cells in the given order."""
    import numpy as np

    column = {cell: index for index, cell in enumerate(cells)}
    weights = np.zeros((len(contrasts), len(cells)))
    for row, contrast in enumerate(contrasts):
        for cell, weight in contrast.weights.items():
            weights[row, column[cell]] = weight
    return weights


def judged(contrasts: Sequence[Contrast]) -> list[int]:
    """Positions of the contrasts that claims are compared with: Shapley values, else main effects."""
    shapley = {contrast.name for contrast in contrasts if contrast.kind == "shapley"}
    return [
        place
        for place, contrast in enumerate(contrasts)
        if contrast.kind == ("shapley" if contrast.name in shapley else "main")
    ]


class _Builder:
    """Builds contrasts of a design's cells (`cell_at` by combination); those in `available` have scores."""

    def __init__(self, design: Design, cell_at: Mapping[Key, str], available: Collection[str]) -> None:
        self.design = design
        self.places = range(len(design.levels))
        self.cell_at = cell_at
        self.available = set(available)
        self.present = {key: cell for key, cell in cell_at.items() if cell in self.available}
        self.rows: list[Contrast] = []
        self.lost: list[NotEstimable] = []

    def add(
        self,
        kind: str,
        name: str,
        terms: Iterable[tuple[Key, float]],
        factors: tuple[str, ...] = (),
        at: str = "",
        baseline: str | None = None,
    ) -> None:
        """Add a contrast of the cells in `terms`, and of the baseline with weight 1 if it is given."""
        weights: dict[str, float] = {}
        missing: list[str] = []
        if baseline is not None:
            if baseline in self.available:
                weights[baseline] = 1.0
            else:
                missing.append(baseline)
        for key, weight in terms:
            if key in self.present:
                cell = self.present[key]
                weights[cell] = weights.get(cell, 0.0) + weight
            else:
                missing.append(self.cell_at.get(key) or label(self.design.named(key)))
        if missing:
            self.lost.append(NotEstimable(kind, name, tuple(dict.fromkeys(missing)), at))
        else:
            self.rows.append(Contrast(name, kind, weights, at, factors))

    def main(self) -> list[str]:
        """Add the main effects; returns those that the design cannot estimate."""
        unresolved = []
        for factor, name, terms in self.design.main_effects():
            if terms:
                self.add("main", name, terms.items(), (factor,))
            else:
                unresolved.append(name)
        return unresolved

    def factorial_interactions(self) -> None:
        """Add the two-way interactions, averaged over the other factors."""
        design = self.design
        steps = [design.steps(factor) for factor in design.factors]
        for i, j in combinations(self.places, 2):
            for (name_a, a), (name_b, b) in product(steps[i], steps[j]):
                corners = ((a, b, 1.0), (a, 0, -1.0), (0, b, -1.0), (0, 0, 1.0))
                squares = []
                for rest in design.others(i, j):
                    square = [(flip(flip(rest, i, x), j, y), sign) for x, y, sign in corners]
                    if all(design.permits(key) for key, _ in square):
                        squares.append(square)
                if squares:
                    terms = [(key, sign / len(squares)) for square in squares for key, sign in square]
                    factors = (design.factors[i], design.factors[j])
                    self.add("interaction", f"{name_a} x {name_b}", terms, factors)

    def clear_interactions(self) -> list[str]:
        """Add the two-way interactions that a fraction can estimate; returns the others."""
        for name, terms in self.design.interactions.items():
            if terms:
                self.add("interaction", name, terms.items(), tuple(name.split(" x ")))
            else:
                self.lost.append(NotEstimable("interaction", name, ()))
        return [name for name, terms in self.design.interactions.items() if not terms]

    def shapley(self) -> None:
        """Add each factor's effect, weighted by how many of the others are on (Shapley 1953)."""
        on = self.design.on
        for place, factor in enumerate(self.design.factors):
            rest = [other for other in self.places if other != place]
            terms = []
            for size in range(len(on)):
                weight = factorial(size) * factorial(len(on) - size - 1) / factorial(len(on))
                for chosen in combinations(rest, size):
                    key = tuple(level if i in chosen else 0 for i, level in enumerate(on))
                    terms += [(flip(key, place, on[place]), weight), (key, -weight)]
            self.add("shapley", self.last_step(factor), terms, (factor,))

    def one_step(self, kind: str, corner: Key) -> None:
        """Add each factor's last level minus its first, with the others at their levels in `corner`."""
        for place, factor in enumerate(self.design.factors):
            terms = [(flip(corner, place, self.design.on[place]), 1.0), (flip(corner, place, 0), -1.0)]
            self.add(kind, self.last_step(factor), terms, (factor,))

    def last_step(self, factor: str) -> str:
        return self.design.steps(factor)[-1][0]

    def simple(self, factor: str) -> None:
        """Add a factor's effect at each combination of the others; in a fraction, where both cells exist."""
        design, place = self.design, self.design.factors.index(factor)
        factorial_cells = design.kind in ("full", "incomplete")
        for name, level in design.steps(factor):
            if factorial_cells:
                rests: Iterable[Sequence[int]] = design.others(place)
            else:
                rests = sorted({flip(key, place, 0) for key in self.present})
            for rest in rests:
                on, off = flip(rest, place, level), flip(rest, place, 0)
                if factorial_cells and not (design.permits(on) and design.permits(off)):
                    continue
                if factorial_cells or (on in self.present and off in self.present):
                    at = {f: names for f, names in design.named(off).items() if f != factor}
                    self.add("simple", name, [(on, 1.0), (off, -1.0)], (factor,), at=label(at))


def build(
    design: Design,
    cells: Mapping[str, Mapping[str, str]],
    *,
    baseline: str | None = None,
    available: Collection[str] | None = None,
    simple: Collection[str] | None = None,
) -> ContrastSet:
    """All contrasts of a design.

    Args:
        cells: every planned cell and its levels. Cells without levels, such as the baseline, are not part of
            the design. If the design does not have factors, this is the base alone.
        baseline: the reference cell.
        available: the cells that have scores (default: all).
        simple: the factors whose simple effects are wanted. Default: all, or none with more than 128 cells.

    Raises:
        InputError: a level is not declared, or two cells have equal levels.
    """
    work = _Builder(design, positions(cells, design.levels), set(cells) if available is None else available)
    notes: list[str] = []
    if baseline is not None:
        work.add("gap", "gap", [(design.off, -1.0)], baseline=baseline)
    if not design.factors:
        return ContrastSet(tuple(work.rows), design.kind, tuple(work.lost))
    unresolved = work.main()
    if design.kind in ("full", "incomplete"):
        if not design.constraints or design.possible() == math.prod(map(len, design.levels.values())):
            work.shapley()
        else:
            notes.append("This design does not resolve Shapley values: constraints exclude combinations.")
        work.factorial_interactions()
    else:
        notes.append(
            f"This design ({design.kind}) does not resolve Shapley values, which need every combination. "
            "Main effects are aliased with the interactions listed."
        )
        unresolved += work.clear_interactions()
    if unresolved:
        notes.append(f"Not resolved by this design: {', '.join(unresolved)}.")
    if baseline is not None:
        work.add("unexplained", "unexplained", [(design.on, -1.0)], baseline=baseline)
    if design.kind in ("full", "incomplete", "leave-one-out"):
        work.one_step("leave-one-out", design.on)
    if design.kind in ("full", "incomplete", "add-one"):
        work.one_step("add-one", design.off)
    if simple is None:
        simple = design.factors if len(design.keys) <= MOST_CELLS_WITH_SIMPLE_EFFECTS else ()
    for factor in simple:
        work.simple(factor)
    order = {kind: index for index, kind in enumerate(KINDS)}
    rows = sorted(work.rows, key=lambda contrast: order[contrast.kind])
    whole = design.kind != "full" or len(work.present) == design.possible()
    return ContrastSet(
        tuple(rows), design.kind if whole else "incomplete", tuple(work.lost), design.aliases, tuple(notes)
    )
