"""Designs: the combinations of levels to compare, as one integer matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product
from typing import Any, Literal, get_args

import numpy as np

from ablate.models.errors import InputError
from ablate.training.metrics.registry import METRICS

from .claims import effect_name

Kind = Literal["full", "fractional", "leave-one-out", "add-one"]
KINDS: tuple[str, ...] = get_args(Kind)
Key = tuple[int, ...]
"""A combination: the position of each factor's level."""

COLUMNS = (
    *("cell", "seed", "utterance", "speaker", "snr", "noise", "training", "status", "seconds", "error"),
    "lag_ms",
)
"""Columns of a table of scores that are neither factors nor metrics."""
RESERVED = frozenset({*COLUMNS, *METRICS, "base", "baseline", "gap"})


@dataclass(frozen=True, eq=False)
class Design:
    """Combinations of levels, and the effects that they can estimate.

    Attributes:
        levels: factor -> its levels, off first, on last.
        kind: one of `KINDS`, or `incomplete` for other sets of cells.
        matrix: (cell, factor) position of the level; rows are unique.
        constraints: combinations of levels to leave out.
    """

    levels: Mapping[str, tuple[str, ...]]
    kind: str
    matrix: np.ndarray[Any, np.dtype[np.int_]]
    constraints: tuple[Mapping[str, str], ...] = ()

    def __post_init__(self) -> None:
        for factor, names in self.levels.items():
            if len(names) < 2 or len(set(names)) < len(names):
                raise InputError(f"factor {factor!r} needs at least two different levels, got {list(names)}")

    @classmethod
    def of(
        cls,
        levels: Mapping[str, Sequence[str]],
        kind: str = "full",
        constraints: Iterable[Mapping[str, str]] = (),
    ) -> Design:
        """The design of a kind, with the all-off cell first. If it has every combination, its kind is `full`.

        Raises:
            InputError: the kind is unknown or does not fit the factors, or the constraints name an unknown
                level, or exclude the all-off cell or every main effect.
        """
        if kind not in KINDS:
            raise InputError(f"unknown design {kind!r}; known: {', '.join(KINDS)}")
        named = {factor: tuple(names) for factor, names in levels.items()}
        sizes = [len(names) for names in named.values()]
        off = (0,) * len(sizes)
        on = tuple(size - 1 for size in sizes)
        if kind == "full":
            keys = list(product(*map(range, sizes)))
        elif kind == "add-one":
            keys = [off, *(flip(off, i, level) for i, size in enumerate(sizes) for level in range(1, size))]
        elif kind == "leave-one-out":
            keys = [off, *(flip(on, i, 0) for i in range(len(sizes))), on]
        else:
            keys = [tuple(row) for row in fraction(sizes)]
        rules = tuple(dict(rule) for rule in constraints)
        for factor, level in (item for rule in rules for item in rule.items()):
            if level not in named.get(factor, ()):
                raise InputError(f"constraint {factor}={level} is not a factor and level of this grid")
        matrix = np.array(list(dict.fromkeys(keys)), dtype=int).reshape(-1, len(sizes))
        whole = cls(named, "full" if len(matrix) == math.prod(sizes) else kind, matrix, rules)
        found = replace(whole, matrix=whole.matrix[[whole.permits(key) for key in whole.keys]])
        if off not in found.keys:
            raise InputError("the constraints exclude the base cell (every factor at its first level)")
        if named and not any(terms for _, _, terms in found.main_effects()):
            raise InputError(
                f"the constraints leave {len(found.keys)} of the {len(whole.keys)} cells of this {kind} "
                "design, too few to estimate any main effect; exclude fewer cells, or use a full design"
            )
        return found

    @property
    def factors(self) -> tuple[str, ...]:
        return tuple(self.levels)

    @cached_property
    def keys(self) -> list[Key]:
        """The rows of the matrix."""
        return [tuple(row) for row in self.matrix.tolist()]

    @cached_property
    def off(self) -> Key:
        return (0,) * len(self.levels)

    @cached_property
    def on(self) -> Key:
        return tuple(len(names) - 1 for names in self.levels.values())

    @property
    def binary(self) -> bool:
        return all(len(names) == 2 for names in self.levels.values())

    def named(self, key: Sequence[int]) -> dict[str, str]:
        """The levels of a combination."""
        return {factor: names[i] for (factor, names), i in zip(self.levels.items(), key, strict=True)}

    def cells(self) -> list[dict[str, str]]:
        """The levels of every cell."""
        return [self.named(key) for key in self.keys]

    def steps(self, factor: str) -> list[tuple[str, int]]:
        """(effect name, level) for every level of a factor but the first, the reference."""
        names = self.levels[factor]
        return [(effect_name(factor, names[level], names), level) for level in range(1, len(names))]

    @cached_property
    def _rules(self) -> list[list[tuple[int, int]]]:
        places = {factor: index for index, factor in enumerate(self.levels)}
        return [
            [(places[factor], self.levels[factor].index(level)) for factor, level in rule.items()]
            for rule in self.constraints
            if all(level in self.levels.get(factor, ()) for factor, level in rule.items())
        ]

    def permits(self, key: Sequence[int]) -> bool:
        """Whether the constraints allow a combination."""
        return not any(all(key[place] == level for place, level in rule) for rule in self._rules)

    def possible(self) -> int:
        """Number of combinations that the constraints allow."""
        sizes = [len(names) for names in self.levels.values()]
        if not self._rules:
            return math.prod(sizes)
        return sum(self.permits(key) for key in product(*map(range, sizes)))

    def others(self, *fixed: int) -> Iterator[list[int]]:
        """Every combination in which the factors at the positions `fixed` have their first level."""
        sizes = [1 if place in fixed else len(names) for place, names in enumerate(self.levels.values())]
        return map(list, product(*map(range, sizes)))

    # ------------------------------------------------------------------------------ what it resolves

    def main_effects(self) -> Iterator[tuple[str, str, dict[Key, float]]]:
        """(factor, effect name, weights by combination) of every main effect, on - off.

        In a factorial: the average over all allowed pairs. In other designs: the least-squares solution, i.e.
        mean(on) - mean(off) in an orthogonal fraction, the single difference in an add-one or leave-one-out
        design. The weights are empty if the design does not resolve the effect.
        """
        for place, factor in enumerate(self.levels):
            for name, level in self.steps(factor):
                if self.kind in ("full", "incomplete"):
                    yield factor, name, self._averaged(place, level)
                else:
                    yield factor, name, self._least_squares.get(name, {})

    def _averaged(self, place: int, level: int) -> dict[Key, float]:
        pairs = []
        for rest in self.others(place):
            pair = flip(rest, place, level), flip(rest, place, 0)
            if all(map(self.permits, pair)):
                pairs.append(pair)
        return {key: sign / len(pairs) for pair in pairs for key, sign in zip(pair, (1.0, -1.0), strict=True)}

    @cached_property
    def _compared(self) -> list[Key]:
        """The cells that estimate main effects: all but the base of a leave-one-out design."""
        spare = self.kind == "leave-one-out" and len(self.levels) > 1
        return [key for key in self.keys if not (spare and key == self.off)]

    @cached_property
    def _least_squares(self) -> dict[str, dict[Key, float]]:
        steps = [(i, *step) for i, factor in enumerate(self.levels) for step in self.steps(factor)]
        keys = np.array(self._compared).reshape(-1, len(self.levels))
        columns = np.column_stack([np.ones(len(keys)), *(keys[:, i] == level for i, _, level in steps)])
        solved = np.linalg.pinv(columns)
        given = np.isclose(solved @ columns, np.eye(columns.shape[1])).all(1)
        return {
            name: {k: float(w) for k, w in zip(self._compared, weights, strict=True) if abs(w) > 1e-12}
            for (_, name, _), weights, found in zip(steps, solved[1:], given[1:], strict=True)
            if found
        }

    @cached_property
    def interactions(self) -> dict[str, dict[Key, float] | None]:
        """The weights of each two-way interaction of a two-level fraction. None if it is aliased with a main
        effect or another two-way interaction."""
        found: dict[str, dict[Key, float] | None] = {}
        if self.kind in ("full", "incomplete") or not self.binary:
            return found
        columns = self._products
        for pair in combinations(self.factors, 2):
            column = columns[pair]
            others = [other for chosen, other in columns.items() if len(chosen) < 3 and chosen != pair]
            mixed = abs(float(column.sum())) + sum(abs(float(column @ other)) for other in others)
            weights = (4 * column / len(column)).tolist()
            found[" x ".join(pair)] = (
                dict(zip(self._compared, weights, strict=True)) if mixed < 1e-9 else None
            )
        return found

    @cached_property
    def aliases(self) -> dict[str, tuple[str, ...]]:
        """Effect -> its aliases of up to three factors, each with its sign, and its weight unless that is 1.

        Only for two-level designs that are not a factorial. pydoe's alias table is not used because it lacks
        signs, which a fraction with the all-off cell needs.
        """
        if self.kind in ("full", "incomplete") or not self.binary:
            return {}
        effects: dict[tuple[str, ...], dict[Key, float]] = {}
        effects |= {(name,): terms for _, name, terms in self.main_effects() if terms}
        effects |= {tuple(name.split(" x ")): terms for name, terms in self.interactions.items() if terms}
        return {" x ".join(own): self._mixed_with(own, terms) for own, terms in effects.items()}

    @cached_property
    def chains(self) -> list[str]:
        """Effects of up to three factors that a fraction cannot separate, e.g. `a = - b x c`."""
        groups: dict[bytes, list[tuple[float, str]]] = {}
        if self.kind == "fractional":
            for chosen, column in self._products.items():
                groups.setdefault((column * column[0]).tobytes(), []).append((column[0], " x ".join(chosen)))
        return [
            " = ".join(name if sign == terms[0][0] else f"- {name}" for sign, name in terms)
            for terms in groups.values()
            if len(terms) > 1
        ]

    def _mixed_with(self, own: tuple[str, ...], terms: Mapping[Key, float]) -> tuple[str, ...]:
        weights = np.array([terms.get(key, 0.0) for key in self._compared])
        found = []
        for chosen, column in self._products.items():
            share = float(weights @ column) / 2 ** len(own)
            if chosen != own and abs(share) > 1e-9:
                size = "" if abs(abs(share) - 1) < 1e-9 else f"{abs(share):.2g} "
                found.append(f"{'-' if share < 0 else ''}{size}{' x '.join(chosen)}")
        return tuple(found)

    @cached_property
    def _products(self) -> dict[tuple[str, ...], np.ndarray]:
        """The +-1 columns over `_compared` of every effect of up to three factors."""
        signs = np.where(np.array(self._compared) == self.on, 1.0, -1.0)
        return {
            tuple(self.factors[i] for i in chosen): np.prod(signs[:, chosen], axis=1)
            for order in (1, 2, 3)
            for chosen in combinations(range(len(self.factors)), order)
        }


def flip(key: Sequence[int], place: int, level: int) -> Key:
    """A combination with one factor at another level."""
    return (*key[:place], level, *key[place + 1 :])


def positions(cells: Mapping[str, Mapping[str, str]], levels: Mapping[str, Sequence[str]]) -> dict[Key, str]:
    """The cells by their combination, without those that lack a level of some factor.

    Raises:
        InputError: a level is not declared, or two cells are the same combination.
    """
    ranks = {factor: {level: i for i, level in enumerate(names)} for factor, names in levels.items()}
    found: dict[Key, str] = {}
    for cell, at in cells.items():
        if any(not at.get(factor) for factor in levels):
            continue
        for factor in levels:
            if at[factor] not in ranks[factor]:
                raise InputError(
                    f"cell {cell!r}: {factor}={at[factor]}, but its levels are {list(levels[factor])}"
                )
        key = tuple(ranks[factor][at[factor]] for factor in levels)
        if key in found:
            same = label({factor: at[factor] for factor in levels})
            raise InputError(
                f"cells {found[key]!r} and {cell!r} have the same levels ({same}); name the column that "
                "distinguishes them in factors="
            )
        found[key] = cell
    return found


def label(levels: Mapping[str, str]) -> str:
    """`{"a": "on", "b": "off"}` as `a=on,b=off`."""
    return ",".join(f"{factor}={level}" for factor, level in levels.items())


def check_factor_name(name: str) -> None:
    """Raise InputError if a factor has the name of another column in tables of scores or effects."""
    if name in RESERVED or name.startswith("noisy_"):
        raise InputError(f"a factor cannot be called {name!r}: tables of scores and effects use this name")


def fraction(sizes: Sequence[int]) -> list[list[int]]:
    """A regular fraction of a two-level factorial, with the all-off row.

    Resolution IV for four factors or more, else III.

    Raises:
        InputError: there are fewer than three factors, or one has more than two levels.
    """
    factors = len(sizes)
    if factors < 3 or any(n != 2 for n in sizes):
        raise InputError(
            f"a fractional design needs at least three factors of two levels, "
            f"got {factors} with {list(sizes)} levels; use --design full"
        )
    from pydoe import fracfact_by_res

    designs = [fracfact_by_res(factors, resolution) for resolution in range(3, factors + 1)]
    good = designs[1:] or designs
    smallest = min(len(rows) for rows in good)
    rows = [rows for rows in good if len(rows) == smallest][-1]
    return sorted((row > 0).astype(int).tolist() for row in rows * -rows[0])
