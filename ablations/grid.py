"""Grids: factors crossed on a base, and the baseline beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from ablate.models.config import Frozen
from ablate.models.errors import InputError
from ablate.models.fields import split_settings
from ablate.training.config import Evaluation, Recipe, RunConfig, check_path, resolve_recipe
from ablate.training.train_command.config import CommandConfig

from .design import KINDS, Design, Kind, check_factor_name
from .factors import FACTORS, Factor, find, parse_value
from .match import SIZES, matched

BASE = "base"
BASELINE = "baseline"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=,\-]{0,199}")


class Combination(Frozen):
    """One combination of levels by name; the baseline has no levels."""

    name: str
    levels: dict[str, str]


class Cell(Combination):
    """One combination of levels and the configuration it resolves to."""

    config: RunConfig


class OwnCell(Combination):
    """One combination of levels and what it gives to a training command."""

    config: CommandConfig


class Factorial(Frozen):
    """Factors crossed.

    Attributes:
        exclude: combinations of levels left out, each {factor: level}.
        changes: settings of every cell, by dotted path.
    """

    factors: tuple[Factor, ...]
    design: Kind = "full"
    exclude: tuple[dict[str, str], ...] = ()
    changes: dict[str, Any] = Field(default_factory=dict)

    def cells(self) -> Sequence[Cell | OwnCell]:
        """Every cell, the base first and the baseline last."""
        raise NotImplementedError

    def crossed(self) -> Design:
        """The combinations of levels that are compared.

        Raises:
            InputError: the design does not fit the factors, or the constraints leave too little of it.
        """
        for factor in self.factors:
            check_factor_name(factor.name)
        levels = {factor.name: tuple(factor.levels) for factor in self.factors}
        return Design.of(levels, self.design, self.exclude)

    def deltas(self) -> Iterator[tuple[str, dict[str, str], dict[str, Any]]]:
        """Name, levels and joined delta of every combination, the base first.

        Raises:
            InputError: two factors set a path to different values.
        """
        for levels in self.crossed().cells():
            delta: dict[str, Any] = {}
            for factor in self.factors:
                for path, value in factor.levels[levels[factor.name]].items():
                    if path in delta and delta[path] != value:
                        raise InputError(
                            f"factors disagree on {path}: {delta[path]!r} and {value!r} "
                            f"(from {factor.name!r}); toggle it by one factor only"
                        )
                    delta[path] = value
            yield cell_name(self.factors, levels), levels, delta


class Grid(Factorial):
    """Factors crossed on a base, and a baseline as one more cell.

    Attributes:
        base: preset the deltas are applied to; the base cell is every factor at its first level.
        baseline: preset of the reference system, or none.
        changes: settings of every cell; those of `model.` leave the baseline as it is.
    """

    base: str = "mbsnet"
    baseline: str | None = "bsrnn"
    recipe: Recipe

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        base: str = "mbsnet",
        baseline: str | None = "bsrnn",
        recipe: str | Recipe = "quick",
        design: str = "full",
        exclude: tuple[dict[str, str], ...] = (),
        changes: Mapping[str, Any] | None = None,
    ) -> Grid:
        """A grid from its text: `bidirectional,decoder4x,core=lstm,mamba`.

        A bare word after `name=a` is its second level; a further one is a level unless it is a factor's name.

        Raises:
            InputError: a factor or level is unknown, a factor is named twice, or the grid is empty.
        """
        if design not in KINDS:
            raise InputError(f"unknown design {design!r}; known: {', '.join(KINDS)}")
        grid = cls(
            base=base,
            baseline=baseline,
            factors=parse_factors(text),
            recipe=resolve_recipe(recipe),
            design=design,
            exclude=exclude,
            changes=dict(changes or {}),
        )
        grid.cells()
        return grid

    def cells(self) -> list[Cell]:
        """Every cell, the base first and the baseline last.

        Raises:
            InputError: a combination is no valid configuration, or the design does not fit the factors.
        """
        for path in self.changes:
            check_path(path)
        of_recipe = {path: value for path, value in self.changes.items() if path.startswith("recipe.")}
        recipe = RunConfig.of(self.base, self.recipe).with_changes(of_recipe).recipe
        start = RunConfig.of(self.base, recipe).with_changes(self.changes)
        cells = []
        for name, levels, delta in self.deltas():
            try:
                config = matched(start.with_changes(delta), self.reference(start, levels))
                cells.append(Cell(name=name, levels=levels, config=config))
            except ValueError as error:
                raise InputError(f"cell {name!r} is no valid configuration: {error}") from error
        if self.baseline is not None:
            kept = {path: value for path, value in self.changes.items() if not path.startswith("model.")}
            reference = RunConfig.of(self.baseline, recipe).with_changes(kept)
            cells.append(Cell(name=BASELINE, levels={}, config=reference))
        return cells

    def reference(self, start: RunConfig, levels: Mapping[str, str]) -> RunConfig:
        """What a cell is matched to: the base with those of its levels that are size themselves."""
        delta: dict[str, Any] = {}
        for factor in self.factors:
            if factor.paths & SIZES:
                delta |= factor.levels[levels[factor.name]]
        return start.with_changes(delta)


class OwnGrid(Factorial):
    """Factors crossed on a training command.

    Attributes:
        baseline: what the reference system is given, or none; `changes` come before it.
        evaluation: of every cell.
    """

    baseline: dict[str, Any] | None = None
    evaluation: Evaluation = Evaluation()

    def cells(self) -> list[OwnCell]:
        """Every cell, the base first and the baseline last.

        Raises:
            InputError: the design does not fit the factors.
        """
        found = [
            OwnCell(name=name, levels=levels, config=self._config(delta))
            for name, levels, delta in self.deltas()
        ]
        if self.baseline is not None:
            found.append(OwnCell(name=BASELINE, levels={}, config=self._config(self.baseline)))
        return found

    def _config(self, delta: Mapping[str, Any]) -> CommandConfig:
        return CommandConfig(overrides={**self.changes, **delta}, evaluation=self.evaluation)


def cell_name(factors: tuple[Factor, ...], levels: Mapping[str, str]) -> str:
    """`base`, or what differs from it: `bidirectional+core=mamba`."""
    parts = [
        factor.name if levels[factor.name] == "on" else f"{factor.name}={levels[factor.name]}"
        for factor in factors
        if levels[factor.name] != factor.off
    ]
    return "+".join(parts) or BASE


def parse_factors(text: str) -> tuple[Factor, ...]:
    """The factors of a grid's text.

    Raises:
        InputError: as `Grid.parse`.
    """
    entries: list[tuple[str, list[str] | None]] = []
    for word in (word.strip() for word in text.split(",")):
        if not word:
            raise InputError(f"an empty entry in the grid {text!r}")
        if "=" in word:
            name, level = (part.strip() for part in word.split("=", 1))
            entries.append((name, [level] if level else []))
        elif entries and (levels := entries[-1][1]) is not None and (word not in FACTORS or len(levels) < 2):
            levels.append(word)
        else:
            entries.append((word, None))
    names = [name for name, _ in entries]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"factor {name!r} is named twice in the grid {text!r}")
    return tuple(find(name, levels) for name, levels in entries)


def safe_name(name: str, kind: str) -> str:
    """`name` if it can be a folder's name of its own.

    Raises:
        InputError: it is empty, too long, starts with a dot, or holds other characters.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"{kind} name {name!r}: start with a letter or digit; letters, digits and _ . + = , - follow"
        )
    return name


def parse_settings(items: list[str]) -> dict[str, Any]:
    """Settings from `path=value` texts.

    Raises:
        InputError: as in `split_settings`, or a path is unknown.
    """
    return {check_path(path): value for path, value in values_of(items).items()}


def values_of(items: list[str]) -> dict[str, Any]:
    """Values by name from `name=value` texts; raises as `split_settings` does."""
    return {name: parse_value(value) for name, value in split_settings(items, "recipe.steps=400")}
