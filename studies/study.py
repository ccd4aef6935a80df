"""The request for a study; `study_file` reads it from options and a YAML file."""

from __future__ import annotations

import math
import re
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from ablate.ablations.claims import Endpoint
from ablate.ablations.design import Kind
from ablate.ablations.factors import Factor, parse_value
from ablate.ablations.grid import Config, Grid
from ablate.models.config import Frozen
from ablate.models.errors import InputError, explain
from ablate.training.config import BUILT_IN, Recipe, TrainingProgram, check_path
from ablate.training.train_command.config import CommandConfig, TrainingCommand

from .compute import Compute
from .launchers import LAUNCHERS

Range = tuple[int, int] | tuple[float, float]


class Choices(Frozen):
    """Values to choose from."""

    choices: tuple[str | int | float | bool, ...] = Field(min_length=2)


class Tuning(Frozen):
    """Tuning with the same number of trials for every cell.

    Attributes:
        space: dotted path -> (low, high), inclusive, on a log scale if low > 0; or choices. Texts such as
            `1e-4..3e-3` or `adam,adamw` are accepted for both.
    """

    space: dict[str, Range | Choices]
    trials: int = Field(default=8, ge=1)

    @field_validator("space", mode="before")
    @classmethod
    def _from_text(cls, space: dict[str, Any]) -> dict[str, Any]:
        return {path: _range(path, v) if isinstance(v, str) else v for path, v in space.items()}

    @field_validator("space")
    @classmethod
    def _of_the_recipe(cls, space: dict[str, Range | Choices]) -> dict[str, Range | Choices]:
        return {path: _as_field(path, values) for path, values in space.items()}


def _range(path: str, text: str) -> Any:
    """Values from `low..high` or `a,b,c`."""
    low, dots, high = text.partition("..")
    ends = parse_value(low), parse_value(high)
    if dots and all(isinstance(end, int | float) for end in ends):
        return ends
    if "," in text:
        return {"choices": [parse_value(value) for value in text.split(",")]}
    raise InputError(f"tuning range {path}: {text} is not valid; write low..high (e.g. 1e-4..3e-3) or a,b")


def _as_field(path: str, values: Range | Choices) -> Range | Choices:
    """The values in the field's type: integers if the field only accepts those."""
    if not check_path(path).startswith("recipe."):
        raise InputError(f"{path!r} is not a recipe field; only recipe fields can be tuned")
    name = path.removeprefix("recipe.")

    def check(value: Any) -> Any:
        try:
            return getattr(Recipe.model_validate({name: value}), name)
        except ValidationError as error:
            raise InputError(explain(error)) from None

    if isinstance(values, Choices):
        return Choices(choices=tuple(map(check, values.choices)))
    low, high = values
    if not low < high:
        raise InputError(f"{path}: the range {low}..{high} is empty")
    top = check(high)
    if isinstance(top, int) and not isinstance(top, bool):
        return check(low), top
    check(math.nextafter(low, high))  # the end itself, such as 0 of what must be positive, is never drawn
    return float(low), float(high)


FIRST_TUNING_SEED = 1_000_001
"""Seeds from here on are reserved for tuning runs."""
_OURS = frozenset({"base", "recipe", "test_data", "tune", "start_from", "step_fractions"})
"""Fields that do not apply if a command trains."""


class Study(Frozen):
    """A requested study; `plan.make` resolves it.

    Attributes:
        baseline: a preset, or overrides of the training command.
        check: overrides for the short run of `ablate check`.
        pairs: pattern or list file that pairs the noisy and clean files of a corpus.
        name: default: made from base, grid, recipe and corpus.
        target_half_width: add runs until every judged effect and the gap have at most this half-width.
        max_seeds: maximum number of seeds of a cell for `target_half_width`.
        file: the study file.
        compute: how to run it.
    """

    base: str = "mbsnet"
    baseline: str | dict[str, Any] | None = "bsrnn"
    factors: tuple[Factor, ...] = Field(min_length=1)
    design: Kind = "full"
    constraints: tuple[dict[str, str], ...] = ()
    recipe: str = "quick"
    set: dict[str, Any] = Field(default_factory=dict)
    check: dict[str, Any] = Field(default_factory=dict)
    seeds: tuple[int, ...] = (1, 2, 3)
    step_fractions: tuple[float, ...] = ()
    data: str = "demo"
    test_data: tuple[str, ...] = ()
    pairs: str | None = None
    endpoint: Endpoint = Endpoint()
    name: str | None = None
    tune: Tuning | None = None
    start_from: str | None = None
    target_half_width: float | None = None
    max_seeds: int = 12
    plugins: tuple[str, ...] = ()
    train: TrainingCommand | None = None
    file: str | None = None
    compute: Compute = Compute()

    @model_validator(mode="after")
    def _fits_how_it_is_trained(self) -> Study:
        if self.train is None:
            if isinstance(self.baseline, dict):
                raise InputError("a baseline made of overrides needs train.command; use a preset, or none")
            return self
        if self.train.gpus > 1 and self.compute.runs_per_gpu > 1:
            raise InputError(
                f"train.gpus is {self.train.gpus}: runs that use several GPUs cannot share one; leave "
                f"out --runs-per-gpu {self.compute.runs_per_gpu}"
            )
        meaningless = sorted(_OURS & self.model_fields_set)
        if meaningless:
            raise InputError(
                f"{', '.join(meaningless)}: only for the built-in trainer; with train.command, use "
                "set: and levels to pass overrides"
            )
        if isinstance(self.baseline, str) and "baseline" in self.model_fields_set:
            raise InputError(f"baseline {self.baseline!r}: with train.command, give its overrides, or none")
        if any(not factor.own for factor in self.factors):
            raise InputError("with train.command, define factors with levels and overrides in the study file")
        for cell in self.grid.cells():
            self.train.check_overrides(cell.config.result_fields())
        return self

    @field_validator("seeds", mode="before")
    @classmethod
    def _a_count_or_a_range(cls, seeds: Any) -> Any:
        return parse_seeds(seeds) if isinstance(seeds, str) else seeds

    @field_validator("seeds")
    @classmethod
    def _below_those_of_tuning(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if any(seed >= FIRST_TUNING_SEED for seed in seeds):
            raise InputError(f"seed {max(seeds)}: seeds from {FIRST_TUNING_SEED} on are reserved for tuning")
        return seeds

    @field_validator("step_fractions", mode="before")
    @classmethod
    def _beside_its_own(cls, fractions: Any) -> Any:
        return parse_step_fractions(fractions) if isinstance(fractions, str) else fractions

    @field_validator("step_fractions")
    @classmethod
    def _lengths(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        """Drop 1 from the fractions, since the full budget is always trained."""
        for fraction in fractions:
            if not (math.isfinite(fraction) and fraction > 0):
                raise InputError(f"step fraction {fraction:g} is not above 0; write e.g. 0.5,1")
        return tuple(sorted({*fractions} - {1.0}))

    @model_validator(mode="after")
    def _steps_stand(self) -> Study:
        tuned = {"recipe.steps", "recipe.epochs"} & set(self.tune.space if self.tune else ())
        if self.step_fractions and tuned:
            raise InputError(f"{', '.join(tuned)} cannot be tuned together with step_fractions")
        return self

    @field_validator("test_data", mode="before")
    @classmethod
    def _one_or_more(cls, paths: Any) -> Any:
        return (paths,) if isinstance(paths, str) else paths or ()

    @field_validator("compute")
    @classmethod
    def _can_be_launched(cls, compute: Compute) -> Compute:
        if LAUNCHERS.check(compute.launcher) in ("inline", "local") and compute.slurm:
            raise InputError(
                f"SLURM settings do not apply to the launcher {compute.launcher!r}; leave them out, or "
                "use --launcher slurm"
            )
        return compute

    @model_validator(mode="after")
    def _can_get_so_narrow(self) -> Study:
        if self.target_half_width is not None and not self.target_half_width > 0:
            raise InputError(f"--target-half-width {self.target_half_width} is not above zero")
        if self.target_half_width is not None and self.max_seeds < 2:
            raise InputError(f"max_seeds {self.max_seeds} is too small: intervals need two seeds of a cell")
        return self

    @property
    def program(self) -> TrainingProgram:
        """The program that trains the cells."""
        return self.train or BUILT_IN

    @property
    def preset_baseline(self) -> str | None:
        """The baseline, if it is a preset; else None."""
        return self.baseline if self.train is None and isinstance(self.baseline, str) else None

    @property
    def grid(self) -> Grid[Config]:
        """The grid; raises InputError if the factors do not make a valid one."""
        crossed: dict[str, Any] = {"design": self.design, "constraints": self.constraints}
        if self.train is None:
            crossed |= {"base": self.base, "baseline": self.preset_baseline, "recipe": self.recipe}
            return Grid.of(self.factors, set=self.set, **crossed)
        start = CommandConfig(overrides=self.set)
        baseline = None if not isinstance(self.baseline, dict) else start.with_changes(self.baseline)
        return Grid[Config](factors=self.factors, start=start, baseline=baseline, **crossed)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from `N` (1 to N) or `a:b` (inclusive).

    Raises:
        InputError: the text is neither, or the range is empty.
    """
    match = re.fullmatch(r"(?:(\d+):)?(\d+)", text.strip())
    low, high = (int(match[1] or 1), int(match[2])) if match else (1, 0)
    if low > high:
        raise InputError(f"seeds {text!r} are not valid; give a count (3) or a range (1:5)")
    return tuple(range(low, high + 1))


def parse_step_fractions(text: str) -> tuple[float, ...]:
    """Step fractions from `0.5,1`.

    Raises:
        InputError: an entry is not a number.
    """
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise InputError(f"step fractions {text!r} are not numbers; write e.g. 0.5,1") from None
