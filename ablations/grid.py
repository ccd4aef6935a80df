"""Grids: factors crossed on a base, plus the baseline."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Generic, cast

from pydantic import AliasChoices, Field
from typing_extensions import TypeVar

from ablate.models.config import Frozen
from ablate.models.errors import InputError
from ablate.models.fields import split_settings
from ablate.training.config import Recipe, RunConfig, check_path
from ablate.training.train_command.config import CommandConfig

from .design import KINDS, Design, Kind, check_factor_name
from .factors import FACTORS, Factor, find, parse_value
from .match import SIZES, matched

BASE = "base"
BASELINE = "baseline"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=,\-]{0,199}")


class Signatures(Frozen):
    """The signatures of a cell's runs by seed (JSON keys are text).

    Cells may have different numbers of seeds; the lists are nested.

    Attributes:
        further: signatures of the evaluations on the plan's extra test sets.
    """

    signatures: dict[int, str] = Field(default_factory=dict)
    evaluations: dict[int, str] = Field(default_factory=dict)
    further: dict[int, tuple[str, ...]] = Field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted(self.signatures))


Config = RunConfig | CommandConfig
AnyConfig = TypeVar("AnyConfig", bound=Config, default=RunConfig, covariant=True)


class Cell(Signatures, Generic[AnyConfig]):
    """One combination of levels, the configuration it resolves to and, once planned, its runs.

    Attributes:
        levels: the level of each factor; empty for the baseline.
        parameters: number of parameters; None if not counted, or if a command trains the cell.
        step_fractions: signatures of its runs at other step budgets, by the fraction of its steps.
        starts: by seed, the weights that the run starts from (`RunSpec.start_from`).
        tuned: the settings chosen by tuning.
    """

    name: str
    levels: dict[str, str]
    config: AnyConfig
    parameters: int | None = None
    step_fractions: dict[float, Signatures] = Field(
        default_factory=dict,
        validation_alias=AliasChoices("step_fractions", "at_lengths"),
        serialization_alias="at_lengths",
    )
    starts: dict[int, dict[str, str]] = Field(default_factory=dict)
    tuned: dict[str, Any] | None = None

    def scored_as(self, seed: int) -> tuple[str, ...]:
        """The evaluation signatures of a run; the first is for the first test set."""
        return (self.evaluations[seed], *self.further.get(seed, ()))


AnyCell = Cell[Config]


class Grid(Frozen, Generic[AnyConfig]):
    """Factors crossed on a configuration, and a baseline as one more cell.

    Attributes:
        start: the configuration that the deltas change; the base cell has every factor at its first level.
        baseline: configuration of the reference system, if there is one.
        constraints: combinations of levels to leave out, each {factor: level}.
    """

    factors: tuple[Factor, ...]
    start: AnyConfig
    baseline: AnyConfig | None = None
    design: Kind = "full"
    constraints: tuple[dict[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str, design: str = "full", **fields: Any) -> Grid:
        """A grid from a text such as `bidirectional,decoder4x,core=lstm,mamba`; for `fields` see `of`.

        A bare word after `name=a` is its second level; further ones are levels unless they name a factor.

        Raises:
            InputError: a factor or level is unknown, a factor is given twice, or the grid is empty.
        """
        if design not in KINDS:
            raise InputError(f"unknown design {design!r}; known: {', '.join(KINDS)}")
        grid = Grid.of(parse_factors(text), design=design, **fields)
        grid.cells()
        return grid

    @staticmethod
    def of(
        factors: tuple[Factor, ...],
        *,
        base: str = "mbsnet",
        baseline: str | None = "bsrnn",
        recipe: str | Recipe = "quick",
        set: Mapping[str, Any] = MappingProxyType({}),
        **fields: Any,
    ) -> Grid:
        """A grid of networks.

        Args:
            base: preset that the factors change.
            baseline: preset of the reference system.
            set: settings of every cell, by dotted path; those under `model.` do not apply to the baseline.
        """
        of_recipe = {check_path(path): value for path, value in set.items() if path.startswith("recipe.")}
        shared = RunConfig.of(base, recipe).with_changes(of_recipe).recipe
        start = RunConfig.of(base, shared).with_changes(set)
        reference = None
        if baseline is not None:
            kept = {path: value for path, value in set.items() if not path.startswith("model.")}
            reference = RunConfig.of(baseline, shared).with_changes(kept)
        return Grid(factors=factors, start=start, baseline=reference, **fields)

    def crossed(self) -> Design:
        """The combinations of levels to compare.

        Raises:
            InputError: the design does not fit the factors, or the constraints exclude too much.
        """
        for factor in self.factors:
            check_factor_name(factor.name)
        levels = {factor.name: tuple(factor.levels) for factor in self.factors}
        return Design.of(levels, self.design, self.constraints)

    def cells(self) -> list[Cell[AnyConfig]]:
        """Every cell, the base first and the baseline last.

        Raises:
            InputError: two factors set a path to different values, a combination is not a valid
                configuration, or the design does not fit the factors.
        """
        cells: list[Any] = []
        for levels in self.crossed().cells():
            name = cell_name(self.factors, levels)
            delta = self._delta(levels, self.factors)
            try:
                config = self.start.with_changes(delta)
                if config.match != "free":
                    # matched to the base with those of its levels that are size themselves
                    sizes = [factor for factor in self.factors if factor.paths & SIZES]
                    reference = self.start.with_changes(self._delta(levels, sizes))
                    config = matched(cast(RunConfig, config), cast(RunConfig, reference))
                cells.append(AnyCell(name=name, levels=levels, config=config))
            except ValueError as error:
                raise InputError(f"cell {name!r} is not a valid configuration: {error}") from error
        if self.baseline is not None:
            cells.append(AnyCell(name=BASELINE, levels={}, config=self.baseline))
        return cells

    def _delta(self, levels: Mapping[str, str], factors: Iterable[Factor]) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        for factor in factors:
            for path, value in factor.levels[levels[factor.name]].items():
                if path in delta and delta[path] != value:
                    raise InputError(
                        f"two factors set {path}: {delta[path]!r} and {value!r} (from {factor.name!r}); "
                        "toggle it in one factor only"
                    )
                delta[path] = value
        return delta


def cell_name(factors: tuple[Factor, ...], levels: Mapping[str, str]) -> str:
    """`base`, or the changed levels, e.g. `bidirectional+core=mamba`."""
    parts = [
        factor.name if levels[factor.name] == "on" else f"{factor.name}={levels[factor.name]}"
        for factor in factors
        if levels[factor.name] != factor.off
    ]
    return "+".join(parts) or BASE


def parse_factors(text: str) -> tuple[Factor, ...]:
    """The factors of a grid's text.

    Raises:
        InputError: as in `Grid.parse`.
    """
    entries: list[tuple[str, list[str] | None]] = []
    for word in (word.strip() for word in text.split(",")):
        if not word:
            raise InputError(f"the grid {text!r} has an empty entry")
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
            raise InputError(f"factor {name!r} is given twice in the grid {text!r}")
    return tuple(find(name, levels) for name, levels in entries)


def safe_name(name: str, kind: str) -> str:
    """Return `name` if it is a valid name of a folder.

    Raises:
        InputError: the name is empty or too long, starts with a dot, or has characters that are not allowed.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"{kind} name {name!r} is not valid; start with a letter or digit, then use letters, "
            "digits and _ . + = , -"
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
