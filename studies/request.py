"""What a study is asked to be: the options of `ablate run`, or a YAML study file."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from ablate.ablations.claim_files import claims_in, read_yaml
from ablate.ablations.claims import Endpoint
from ablate.ablations.design import Kind
from ablate.ablations.factors import LEVEL, Factor, find, parse_value
from ablate.ablations.grid import Grid, OwnGrid, parse_factors
from ablate.models.config import Frozen
from ablate.models.errors import InputError, explain
from ablate.models.fields import split_settings
from ablate.models.registry import suggestion
from ablate.training.config import Recipe, check_path, resolve_recipe
from ablate.training.train_command.config import TrainingCommand, override

from .launchers import LAUNCHERS

Range = tuple[int, int] | tuple[float, float]


class Choices(Frozen):
    """Values to choose from."""

    choices: tuple[str | int | float | bool, ...] = Field(min_length=2)


class Tuning(Frozen):
    """An equal budget of trials for every cell.

    Attributes:
        space: dotted path -> (low, high), both included, in the logarithm if low > 0; or choices.
    """

    space: dict[str, Range | Choices]
    trials: int = Field(8, ge=1)

    @field_validator("space")
    @classmethod
    def _of_the_recipe(cls, space: dict[str, Range | Choices]) -> dict[str, Range | Choices]:
        return {path: _as_field(path, values) for path, values in space.items()}


def _as_field(path: str, values: Range | Choices) -> Range | Choices:
    """Values as the recipe's field takes them: whole numbers where it takes no others."""
    if not check_path(path).startswith("recipe."):
        raise InputError(f"{path!r} is no field of the recipe; tune recipe fields only")
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


BESIDE_TRAIN = ("scores", "curve", "network", "links")
"""Fields of a `TrainingCommand` that stand beside `train` in a study file."""
FIRST_TUNING_SEED = 1_000_001
"""Tuning runs have seeds from here on; a study's own are below."""
_OURS = frozenset({"base", "recipe", "test_data", "tune", "start_from", "step_fractions"})
"""Fields that mean nothing where a command trains."""


class Request(Frozen):
    """A study as asked for; `plan.make` resolves it.

    Attributes:
        baseline: a preset; overrides where a command trains.
        check: overrides of a short run by which `ablate run --check` tries a command of the user's.
        pairs: a pattern or a list by which the files of a corpus pair that does not say so itself.
        file: the study file.
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
    study: str | None = None
    tune: Tuning | None = None
    start_from: str | None = None
    plugins: tuple[str, ...] = ()
    launcher: str = "local"
    train: TrainingCommand | None = None
    file: str | None = None

    @model_validator(mode="after")
    def _fits_how_it_is_trained(self) -> Request:
        if self.train is None:
            if isinstance(self.baseline, dict):
                raise InputError("a baseline of overrides needs train.command; name a preset, or none")
            return self
        meaningless = sorted(_OURS & self.model_fields_set)
        if meaningless:
            raise InputError(
                f"{', '.join(meaningless)}: of our own trainings; with train.command, settings are overrides"
            )
        if isinstance(self.baseline, str) and "baseline" in self.model_fields_set:
            raise InputError(f"baseline {self.baseline!r}: with train.command, none or overrides of it")
        if any(not factor.own for factor in self.factors):
            raise InputError("with train.command the study file says what each factor's levels give to it")
        for cell in self.own_grid.cells():
            self.train.check_overrides(cell.config.overrides)
        return self

    @field_validator("seeds")
    @classmethod
    def _below_those_of_tuning(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if any(seed >= FIRST_TUNING_SEED for seed in seeds):
            raise InputError(
                f"seed {max(seeds)}: seeds from {FIRST_TUNING_SEED} on are those of tuning; give smaller ones"
            )
        return seeds

    @field_validator("step_fractions", mode="before")
    @classmethod
    def _beside_its_own(cls, fractions: Any) -> Any:
        return parse_step_fractions(fractions) if isinstance(fractions, str) else fractions

    @field_validator("step_fractions")
    @classmethod
    def _lengths(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        """Without the study's own, which is always trained."""
        for fraction in fractions:
            if not (math.isfinite(fraction) and fraction > 0):
                raise InputError(f"length {fraction:g}: give a share of the steps above 0, e.g. 0.5,1")
        return tuple(sorted({*fractions} - {1.0}))

    @model_validator(mode="after")
    def _steps_stand(self) -> Request:
        tuned = {"recipe.steps", "recipe.epochs"} & set(self.tune.space if self.tune else ())
        if self.step_fractions and tuned:
            raise InputError(f"{', '.join(tuned)} cannot be tuned and trained at other lengths at once")
        return self

    @field_validator("test_data", mode="before")
    @classmethod
    def _one_or_more(cls, paths: Any) -> Any:
        return (paths,) if isinstance(paths, str) else paths or ()

    @field_validator("launcher")
    @classmethod
    def _known_launcher(cls, name: str) -> str:
        return LAUNCHERS.check(name)

    @property
    def preset_baseline(self) -> str | None:
        """The baseline where it is a preset."""
        return self.baseline if self.train is None and isinstance(self.baseline, str) else None

    @property
    def own_grid(self) -> OwnGrid:
        """The grid of a training command."""
        return OwnGrid(
            factors=self.factors,
            baseline=self.baseline if isinstance(self.baseline, dict) else None,
            design=self.design,
            exclude=self.constraints,
            changes=self.set,
        )

    @property
    def grid(self) -> Grid:
        """Raises InputError where the factors make no valid grid."""
        return Grid(
            base=self.base,
            baseline=self.preset_baseline,
            factors=self.factors,
            recipe=resolve_recipe(self.recipe),
            design=self.design,
            exclude=self.constraints,
            changes=self.set,
        )


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from `N` (1 to N) or `a:b` (inclusive).

    Raises:
        InputError: the text is neither, or names no seed.
    """
    match = re.fullmatch(r"(?:(\d+):)?(\d+)", text.strip())
    low, high = (int(match[1] or 1), int(match[2])) if match else (1, 0)
    if low > high:
        raise InputError(f"seeds {text!r}: give a count (3) or a range (1:5) that holds a seed")
    return tuple(range(low, high + 1))


def parse_step_fractions(text: str) -> tuple[float, ...]:
    """Lengths from `0.5,1`.

    Raises:
        InputError: an entry is no number.
    """
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise InputError(f"lengths {text!r}: write shares of the steps, e.g. 0.5,1") from None


def parse_tuning(items: list[str], trials: int) -> Tuning | None:
    """A tuning space from `path=low..high` and `path=a,b,c` texts; none where there are none.

    Raises:
        InputError: an item is no range and no list of values of a recipe's field.
    """
    space: dict[str, Any] = {}
    for item in items:
        path, _, values = item.partition("=")
        low, dots, high = values.partition("..")
        ends = parse_value(low), parse_value(high)
        if dots and all(isinstance(end, int | float) for end in ends):
            space[path] = ends
        elif "," in values:
            space[path] = {"choices": [parse_value(value) for value in values.split(",")]}
        else:
            raise InputError(
                f"tuning {item!r}: write path=low..high, e.g. recipe.learning_rate=1e-4..3e-3, or path=a,b"
            )
    try:
        return Tuning(space=space, trials=trials) if space else None
    except ValidationError as error:
        raise InputError(explain(error)) from None


def parse_overrides(items: list[str]) -> dict[str, Any]:
    """Overrides of the training command from `name=value` texts; raises as `split_settings` does."""
    return _overrides(dict(split_settings(items, "lr=1e-4, as the command calls it")))


class _Loader(yaml.SafeLoader):
    """YAML whose scalars are text: `off` is a word, and `1:5` a range of seeds, not 65."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in ("null", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_file(path: Path) -> dict[str, Any]:
    """The fields of a `Request` that a YAML study file sets.

    `factors` maps a factor's name to `{levels, claim, source, metric, conditions}`, all optional: `levels` a
    list of known levels or `{level: {dotted path: value}}`, the others as in a file of claims
    (`ablations.claim_files`). `grid` is the command line's text. With `train`, the values of levels,
    `set` and `baseline` are overrides of the training command, and `scores` and `curve` are what it leaves.

    Raises:
        InputError: the file is no YAML mapping, a key is unknown, or a factor in it is none.
    """
    data = read_yaml(path, _Loader)
    if not isinstance(data, dict):
        raise InputError(f"{path}: a study file is a mapping of fields such as base, factors, seeds")
    known = ["grid", *(field for field in Request.model_fields if field != "file"), *BESIDE_TRAIN]
    for key in data:
        if key not in known:
            raise InputError(f"{path}: unknown key {key!r}{suggestion(str(key), known)}")
    data["file"] = str(path.resolve())
    own = "train" in data
    if own:
        data["train"] = _train(path, data)
    if data.get("baseline") == "none" or (own and "baseline" not in data):
        data["baseline"] = None
    elif own and isinstance(data["baseline"], dict):
        data["baseline"] = _overrides(data["baseline"])
    if "grid" in data:
        if "factors" in data or own:
            other = "factors" if "factors" in data else "train"
            raise InputError(f"{path}: give grid or {other}, not both")
        data["factors"] = parse_factors(data.pop("grid"))
    elif "factors" in data:
        metric = (data.get("endpoint") or {}).get("metric", Endpoint().metric)
        data["factors"] = tuple(
            _factor(name, body or {}, metric, own) for name, body in data["factors"].items()
        )
    if isinstance(data.get("seeds"), str):
        data["seeds"] = parse_seeds(data["seeds"])
    if own:
        data |= {key: _overrides(data.get(key) or {}) for key in ("set", "check")}
    elif "set" in data:
        data["set"] = {check_path(key): _value(value) for key, value in data["set"].items()}
    if data.get("data") is not None:
        data["data"] = _place(path, data["data"])
    if data.get("pairs") is not None and (path.parent / data["pairs"]).exists():
        data["pairs"] = str((path.parent / data["pairs"]).resolve())
    if data.get("test_data") is not None:
        named = data["test_data"] if isinstance(data["test_data"], list) else [data["test_data"]]
        data["test_data"] = tuple(_place(path, place) for place in named)
    return data


def _place(file: Path, corpus: str) -> str:
    """A corpus as a study file names it: relative to the file, or the demo corpus."""
    return corpus if corpus == "demo" else str((file.parent / corpus).resolve())


def _train(path: Path, data: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `TrainingCommand`, of which some stand beside `train` in a study file."""
    if not isinstance(data["train"], dict) or not {"command", "commands"} & set(data["train"]):
        raise InputError(f"{path}: train is a mapping with a command, e.g. train: {{command: python ...}}")
    train = dict(data["train"])
    for key in BESIDE_TRAIN:
        if key in data:
            train[key] = data.pop(key)
    for key in ("code", "links"):
        if isinstance(train.get(key), str):
            train[key] = (train[key],)
    train["folder"] = str((path.parent / train.get("folder", ".")).resolve())
    return train


def _overrides(values: dict[str, Any]) -> dict[str, Any]:
    return {str(key): override(value) for key, value in values.items()}


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(item) for item in value]
    return parse_value(value) if isinstance(value, str) else value


def _values(delta: dict[str, Any]) -> dict[str, Any]:
    return {path: _value(value) for path, value in delta.items()}


def _factor(name: str, body: dict[str, Any], metric: str, own: bool) -> Factor:
    claims = claims_in(name, {k: v for k, v in body.items() if k != "levels"}, "study file", metric)
    levels = body.get("levels")
    if own and isinstance(levels, list):
        levels = {level: {name: level} for level in levels}
    if own and not isinstance(levels, dict):
        raise InputError(f"factor {name!r}: give its levels, each with its overrides of the command")
    if isinstance(levels, dict):
        read = _overrides if own else _values
        deltas = {str(level): read(delta or {}) for level, delta in levels.items()}
        if not LEVEL.fullmatch(name):
            raise InputError(f"factor name {name!r}: use letters, digits, '.', '_' and '-' only")
        if len(deltas) < 2:
            raise InputError(f"factor {name!r} needs at least two levels, got {len(deltas)}")
        factor = Factor(name=name, own=own, levels=deltas)
    else:
        factor = find(name, [str(level) for level in levels] if levels else None)
    for claim in claims:
        factor = factor.with_claim(claim)
    return factor
