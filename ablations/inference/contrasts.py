"""Contrasts: named weights over the cells of a factorial.

Signs: an effect is on minus off, the gap is baseline minus base. A factor's first level is *off*; its last
level is *on*. Every estimate of a report is one of these weight vectors times the vector of cell means.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from math import factorial
from typing import TYPE_CHECKING, NamedTuple

from ..claims import effect_name

if TYPE_CHECKING:
    import numpy as np

KINDS = ("gap", "main", "shapley", "not-toggled", "interaction", "one-out", "one-in", "simple")
DESIGNS = ("full", "fractional", "one-in", "one-out")


@dataclass(frozen=True)
class Contrast:
    """Weights over cells. `at` holds the levels of the other factors of a simple effect."""

    name: str
    kind: str
    weights: Mapping[str, float]
    at: str = ""
    factors: tuple[str, ...] = ()


class NotEstimable(NamedTuple):
    """A contrast that the cells at hand cannot give, and the cells it would need."""

    kind: str
    name: str
    missing: tuple[str, ...]
    at: str = ""


@dataclass(frozen=True)
class ContrastSet:
    """All contrasts of a design, what cannot be estimated from it and what is mixed up with what.

    `design` is `full` (every combination has scores), `fractional`, `one-in`, `one-out` or `incomplete`.
    """

    rows: tuple[Contrast, ...]
    design: str
    not_estimable: tuple[NotEstimable, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def declared(self, kind: str) -> int:
        """How many contrasts of a kind the design means to give, lost ones too."""
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


def label(levels: Mapping[str, str]) -> str:
    """`{"a": "on", "b": "off"}` as `a=on,b=off`."""
    return ",".join(f"{factor}={level}" for factor, level in levels.items())


def shapley_weight(size: int, factors: int) -> float:
    """Weight of a factor's effect when `size` of the `factors - 1` others are on (Shapley 1953)."""
    return factorial(size) * factorial(factors - size - 1) / factorial(factors)


class _Builder:
    def __init__(
        self,
        cells: Mapping[str, Mapping[str, str]],
        levels: Mapping[str, Sequence[str]],
        available: Collection[str],
        constraints: Iterable[Mapping[str, str]],
    ) -> None:
        self.levels = {factor: tuple(names) for factor, names in levels.items()}
        self.factors = tuple(self.levels)
        self.forbidden = [dict(rule) for rule in constraints]
        self.cell_at: dict[tuple[str, ...], str] = {}
        for cell, at in cells.items():
            if any(not at.get(factor) for factor in self.factors):
                continue
            key = tuple(at[factor] for factor in self.factors)
            for factor, level in zip(self.factors, key, strict=True):
                if level not in self.levels[factor]:
                    raise ValueError(
                        f"cell {cell!r}: {factor}={level}, but its levels are {list(self.levels[factor])}"
                    )
            if key in self.cell_at:
                raise ValueError(
                    f"cells {self.cell_at[key]!r} and {cell!r} have the same levels ({self.key_label(key)}); "
                    "name the column that tells them apart in factors="
                )
            self.cell_at[key] = cell
        self.available = set(available)
        self.present = {key: cell for key, cell in self.cell_at.items() if cell in self.available}
        self.off = tuple(names[0] for names in self.levels.values())
        self.on = tuple(names[-1] for names in self.levels.values())
        self.binary = all(len(names) == 2 for names in self.levels.values())
        self.rows: list[Contrast] = []
        self.lost: list[NotEstimable] = []

    def key_label(self, key: Sequence[str]) -> str:
        return label(dict(zip(self.factors, key, strict=True)))

    def allowed(self, key: Sequence[str]) -> bool:
        at = dict(zip(self.factors, key, strict=True))
        return not any(all(at.get(f) == level for f, level in rule.items()) for rule in self.forbidden)

    def combinations(self) -> list[tuple[str, ...]]:
        return [key for key in product(*self.levels.values()) if self.allowed(key)]

    def others(self, *fixed: str) -> list[dict[str, str]]:
        """Every combination of levels of the factors that are not `fixed`."""
        free = [factor for factor in self.factors if factor not in fixed]
        return [dict(zip(free, choice, strict=True)) for choice in product(*(self.levels[f] for f in free))]

    def key(self, at: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(at[factor] for factor in self.factors)

    def steps(self, factor: str) -> list[tuple[str, str, str]]:
        """(effect name, off level, other level) for every level of the factor but the first."""
        names = self.levels[factor]
        return [(effect_name(factor, level, names), names[0], level) for level in names[1:]]

    def last_step(self, factor: str) -> tuple[str, str, str]:
        return self.steps(factor)[-1]

    def add(
        self,
        kind: str,
        name: str,
        terms: Iterable[tuple[tuple[str, ...], float]],
        factors: tuple[str, ...],
        at: str = "",
        extra: Mapping[str, float] | None = None,
    ) -> None:
        """Add a contrast of factorial cells (`terms`) and other cells (`extra`, by name)."""
        weights: dict[str, float] = {}
        missing: list[str] = []
        for cell, weight in (extra or {}).items():
            if cell in self.available:
                weights[cell] = weights.get(cell, 0.0) + weight
            else:
                missing.append(cell)
        for key, weight in terms:
            if key in self.present:
                cell = self.present[key]
                weights[cell] = weights.get(cell, 0.0) + weight
            else:
                missing.append(self.cell_at.get(key, self.key_label(key)))
        if missing:
            self.lost.append(NotEstimable(kind, name, tuple(dict.fromkeys(missing)), at))
        else:
            self.rows.append(Contrast(name, kind, weights, at, factors))

    def gap(self, baseline: str) -> None:
        self.add("gap", "gap", [(self.off, -1.0)], (), extra={baseline: 1.0})

    def not_toggled(self, baseline: str) -> None:
        self.add("not-toggled", "not toggled", [(self.on, -1.0)], (), extra={baseline: 1.0})

    def main(self) -> None:
        for factor in self.factors:
            for name, off, on in self.steps(factor):
                pairs = []
                for rest in self.others(factor):
                    pair = self.key({**rest, factor: on}), self.key({**rest, factor: off})
                    if all(map(self.allowed, pair)):
                        pairs.append(pair)
                if not pairs:
                    continue
                terms = [
                    (key, sign / len(pairs))
                    for pair in pairs
                    for key, sign in zip(pair, (1, -1), strict=True)
                ]
                self.add("main", name, terms, (factor,))

    def interactions(self) -> None:
        for first, second in combinations(self.factors, 2):
            for name_a, off_a, on_a in self.steps(first):
                for name_b, off_b, on_b in self.steps(second):
                    corners = ((on_a, on_b, 1), (on_a, off_b, -1), (off_a, on_b, -1), (off_a, off_b, 1))
                    squares = []
                    for rest in self.others(first, second):
                        square = [(self.key({**rest, first: a, second: b}), s) for a, b, s in corners]
                        if all(self.allowed(key) for key, _ in square):
                            squares.append(square)
                    if not squares:
                        continue
                    terms = [(key, sign / len(squares)) for square in squares for key, sign in square]
                    self.add("interaction", f"{name_a} x {name_b}", terms, (first, second))

    def shapley(self) -> None:
        count = len(self.factors)
        off = dict(zip(self.factors, self.off, strict=True))
        on = dict(zip(self.factors, self.on, strict=True))
        for factor in self.factors:
            rest = [other for other in self.factors if other != factor]
            terms = []
            for size in range(count):
                weight = shapley_weight(size, count)
                for chosen in combinations(rest, size):
                    at = {**off, **{other: on[other] for other in chosen}}
                    terms.append((self.key({**at, factor: on[factor]}), weight))
                    terms.append((self.key(at), -weight))
            self.add("shapley", self.last_step(factor)[0], terms, (factor,))

    def one_out(self) -> None:
        on = dict(zip(self.factors, self.on, strict=True))
        for factor in self.factors:
            name, off, _ = self.last_step(factor)
            self.add("one-out", name, [(self.on, 1.0), (self.key({**on, factor: off}), -1.0)], (factor,))

    def one_in(self) -> None:
        off = dict(zip(self.factors, self.off, strict=True))
        for factor in self.factors:
            name, _, on = self.last_step(factor)
            self.add("one-in", name, [(self.key({**off, factor: on}), 1.0), (self.off, -1.0)], (factor,))

    def simple(self, *, name_missing: bool) -> None:
        for factor in self.factors:
            for name, off, on in self.steps(factor):
                for rest in self.others(factor):
                    pair = self.key({**rest, factor: on}), self.key({**rest, factor: off})
                    if not all(map(self.allowed, pair)):
                        continue
                    if name_missing or all(key in self.present for key in pair):
                        terms = list(zip(pair, (1.0, -1.0), strict=True))
                        self.add("simple", name, terms, (factor,), at=label(rest))

    def codes(self, keys: Sequence[tuple[str, ...]]) -> np.ndarray:
        """Levels as +1 (on) and -1 (off): (cell, factor). Two-level factors only."""
        import numpy as np

        on = np.array(self.on)
        return np.where(np.array(keys, dtype=object).reshape(len(keys), -1) == on, 1.0, -1.0)

    def guess_design(self, declared: str | None) -> str:
        """The design that the planned cells (with or without scores) make."""
        import numpy as np

        planned = set(self.cell_at)
        if declared == "full" or planned >= set(self.combinations()):
            return "full"
        one_in = {self.off} | {
            self.flip(self.off, i, level)
            for i, names in enumerate(self.levels.values())
            for level in names[1:]
        }
        one_out = {self.on} | {self.flip(self.on, i, off) for i, off in enumerate(self.off)}
        unambiguous = len(self.factors) > 2
        if planned == one_in and (declared == "one-in" or unambiguous):
            return "one-in"
        if planned | {self.off} == one_out | {self.off} and (declared == "one-out" or unambiguous):
            return "one-out"
        if not self.binary or not planned:
            return "incomplete"
        x = self.codes(list(planned))
        x = np.column_stack([np.ones(len(planned)), x])
        if len(planned) > len(self.factors) and np.allclose(x.T @ x, len(planned) * np.eye(x.shape[1])):
            return "fractional"
        return "incomplete"

    @staticmethod
    def flip(key: tuple[str, ...], index: int, level: str) -> tuple[str, ...]:
        return (*key[:index], level, *key[index + 1 :])

    def fraction(self, design: str) -> dict[str, tuple[str, ...]]:
        """Main effects by least squares on the planned cells, clear interactions, and the alias table.

        In an orthogonal two-level fraction the least-squares weights are those of mean(on) - mean(off). In a
        one-in or one-out design they are the single difference, without the base of a one-out design.
        """
        import numpy as np

        keys = [key for key in self.cell_at if design != "one-out" or key != self.off]
        steps = [(factor, *step) for factor in self.factors for step in self.steps(factor)]
        at = [dict(zip(self.factors, key, strict=True)) for key in keys]
        columns = [[1.0] + [float(levels[f] == on) for f, _, _, on in steps] for levels in at]
        rows = np.linalg.pinv(np.array(columns))[1:]
        aliases = {}
        for (factor, name, _, _), weights in zip(steps, rows, strict=True):
            terms = [(key, w) for key, w in zip(keys, weights.tolist(), strict=True) if abs(w) > 1e-12]
            self.add("main", name, terms, (factor,))
            if self.binary:
                aliases[name] = self.mixed_with(keys, weights, (factor,))
        if self.binary:
            aliases.update(self.clear_interactions(keys))
        return aliases

    def product_columns(self, keys: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], np.ndarray]:
        """The +-1 columns of every effect of up to three factors over the cells."""
        import numpy as np

        x = self.codes(keys)
        return {
            tuple(self.factors[i] for i in chosen): np.prod(x[:, chosen], axis=1)
            for order in (1, 2, 3)
            for chosen in combinations(range(len(self.factors)), order)
        }

    def mixed_with(
        self, keys: Sequence[tuple[str, ...]], weights: np.ndarray, own: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Effects of up to three factors that the weights pick up beside their own, with their share."""
        found = []
        for chosen, column in self.product_columns(keys).items():
            share = float(weights @ column) / 2 ** len(own)
            if chosen != own and abs(share) > 1e-9:
                size = "" if abs(abs(share) - 1) < 1e-9 else f"{abs(share):.2g} "
                found.append(f"{'-' if share < 0 else ''}{size}{' x '.join(chosen)}")
        return tuple(found)

    def clear_interactions(self, keys: Sequence[tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """Add the two-way interactions that no main effect or other two-way interaction is mixed with."""
        columns = self.product_columns(keys)
        aliases = {}
        for pair in combinations(self.factors, 2):
            name, column = " x ".join(pair), columns[pair]
            low_order = [other for chosen, other in columns.items() if len(chosen) <= 2 and chosen != pair]
            if abs(float(column.sum())) + sum(abs(float(column @ other)) for other in low_order) > 1e-9:
                self.lost.append(NotEstimable("interaction", name, ()))
                continue
            weights = 4 * column / len(keys)
            self.add("interaction", name, list(zip(keys, weights.tolist(), strict=True)), pair)
            aliases[name] = self.mixed_with(keys, weights, pair)
        return aliases


def build(
    cells: Mapping[str, Mapping[str, str]],
    levels: Mapping[str, Sequence[str]],
    *,
    base: str | None = None,
    baseline: str | None = None,
    available: Collection[str] | None = None,
    constraints: Iterable[Mapping[str, str]] = (),
    design: str | None = None,
) -> ContrastSet:
    """All contrasts of the cells at hand.

    `cells` maps every planned cell to its levels (a cell without levels, such as the baseline, stands outside
    the factorial). `levels` gives each factor's levels in order, off first. `available` are the cells that
    have scores (default: all). `constraints` lists combinations that the grid forbids, such as
    `{"crossband": "on", "decoder4x": "off"}`; averages then run over what is allowed. `base` is needed where
    there are no factors: the gap is then all there is. `design` settles what the cells leave open (three
    cells of two factors: a one-in design, or a full one with a hole).

    Raises ValueError for a level that is not declared, two cells with equal levels, or an unknown design.
    """
    if design is not None and design not in DESIGNS:
        raise ValueError(f"design {design!r} is not one of {', '.join(DESIGNS)}")
    for factor, names in levels.items():
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"factor {factor!r} needs two or more different levels, not {list(names)}")
    if not levels:
        cells = {base: cells[base]} if base is not None else {}
    work = _Builder(cells, levels, set(cells) if available is None else available, constraints)
    found = work.guess_design(design)
    notes: list[str] = []
    aliases: dict[str, tuple[str, ...]] = {}
    if baseline is not None:
        work.gap(baseline)
    if not work.factors:
        return ContrastSet(tuple(work.rows), found, tuple(work.lost))
    if found in ("full", "incomplete"):
        work.main()
        if len(work.combinations()) == len(list(product(*work.levels.values()))):
            work.shapley()
        else:
            notes.append(
                "Shapley values are not resolved by this design: the grid forbids some combinations."
            )
        work.interactions()
    else:
        aliases = work.fraction(found)
        notes.append(
            f"Shapley values are not resolved by this design ({found}): they need every combination. "
            "Main effects are mixed up with the interactions listed as their aliases."
        )
        unresolved = [lost.name for lost in work.lost if lost.kind == "interaction" and not lost.missing]
        if unresolved:
            notes.append(f"Not resolved by this design: {', '.join(unresolved)}.")
    if baseline is not None:
        work.not_toggled(baseline)
    if found in ("full", "incomplete", "one-out"):
        work.one_out()
    if found in ("full", "incomplete", "one-in"):
        work.one_in()
    work.simple(name_missing=found in ("full", "incomplete"))
    order = {kind: index for index, kind in enumerate(KINDS)}
    rows = sorted(work.rows, key=lambda contrast: order[contrast.kind])
    if found == "full" and len(work.present) < len(work.combinations()):
        found = "incomplete"
    return ContrastSet(tuple(rows), found, tuple(work.lost), aliases, tuple(notes))
