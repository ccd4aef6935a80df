"""The configuration of a run: recipe, evaluation and network. Needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from ablate.models.config import PATH, Frozen, ModelConfig, Section, resolve_model
from ablate.models.errors import InputError, explain
from ablate.models.fields import Added, FieldMarks, marks_of
from ablate.models.registry import suggestion

from .recipe import Fraction, Recipe

RESULTS_VERSION = 1
"""Raised if a change of code changes results, which a golden test detects. Part of every signature."""


def _known_metric(name: str) -> str:
    from .metrics.registry import find_metric

    return find_metric(name).name


def _listed(names: Any) -> Any:
    return tuple(names.split(",")) if isinstance(names, str) else names


MetricName = Annotated[str, AfterValidator(_known_metric)]


RECIPES: dict[str, Recipe] = {
    "quick": Recipe(
        name="quick",
        steps=40,
        crop_seconds=1.0,
        selection="last",
        validation_utterances=8,
        width=0.25,
        depth=0.5,
    ),
    "small": Recipe(
        name="small", steps=1500, crop_seconds=2.0, validation_utterances=32, width=0.25, depth=0.5
    ),
    "reference": Recipe(
        name="reference", epochs=120, adversarial_weight=1.0, validate_every=1000, validation_utterances=128
    ),
}
"""Named recipes. `reference` is the published one (BSRNN's reference implementation)."""


class Evaluation(Section):
    """How a trained network is tested; evaluations share trainings."""

    post_processing: Literal["none", "pcs"] = Field(
        default="none", description="pcs: perceptual contrast stretching of the enhanced speech"
    )
    taps: Annotated[Literal[1, 2, 3], Added] = Field(
        default=3, description="taps of the filter head: the current frame, the one before, the third"
    )
    mix_back: Annotated[Fraction, Added] = Field(
        default=0.0, description="share of the noisy signal in the output, before the post-processing"
    )
    metrics: Annotated[tuple[MetricName, ...], BeforeValidator(_listed), Added] = Field(
        default=(), description="metrics on test beyond the usual ones, e.g. dnsmos_ovrl"
    )


class EvaluationJob(Frozen):
    """One scoring of a run on a test set.

    Attributes:
        signature: names the scores' file.
        test_path: corpus whose test split is scored; None: the training corpus.
    """

    signature: str
    evaluation: Evaluation = Evaluation()
    test_path: str | None = None
    test_digest: str


class TrainingProgram(Frozen):
    """The trainer of a study's cells: the built-in one, or a command (`TrainingCommand`).

    Attributes:
        gpus: of one run.
        imported: the source of results that were trained elsewhere.
    """

    gpus: int = Field(default=1, ge=1)
    imported: str | None = None

    @property
    def is_table(self) -> bool:
        """Whether it scores its test files itself."""
        return False

    @property
    def has_curve(self) -> bool:
        """Whether it reports its validation PESQ."""
        return True

    def other_value(self, metric: str) -> str | None:
        """The metric whose test mean is the value of a run without a validation PESQ; None: such a run has no
        value."""
        return None

    def rate_of(self, config: Any) -> int:
        """Hz, of the enhanced speech in a cell."""
        from ablate.models.summary import rate_of

        return rate_of(config.model)


BUILT_IN = TrainingProgram()


class RunConfig(Frozen):
    """A cell of a grid: the network, its training and its evaluation."""

    ABSENT: ClassVar[Any] = None
    """Value of a field that a configuration lacks."""
    model: ModelConfig
    recipe: Recipe
    evaluation: Evaluation = Evaluation()

    @classmethod
    def of(cls, preset: str | ModelConfig, recipe: str | Recipe = "quick") -> RunConfig:
        """A preset under a recipe, shrunk by the recipe.

        Raises:
            InputError: the preset or the recipe is unknown.
        """
        resolved = resolve_recipe(recipe)
        return cls(model=resolved.shrink(resolve_model(preset)), recipe=resolved)

    def with_changes(self, changes: Mapping[str, Any]) -> RunConfig:
        """This configuration with fields replaced by dotted path, validated again.

        Args:
            changes: e.g. `{"model.direction": "bi", "recipe.steps": 400, "recipe.losses.mine": 0.1}`.

        Raises:
            InputError: a path is not a field (the nearest is suggested), or a value is invalid.
        """
        data = self.model_dump(by_alias=False)
        for path, value in changes.items():
            part, field, *key = check_path(path).split(".", 2)
            before = data[part][field]
            if key and str(before.get(key[0])).startswith(PATH) and not str(value).startswith(PATH):
                value = f"{PATH}{value}"
            data[part][field] = before | {key[0]: value} if key else value
        try:
            return type(self).model_validate(data)
        except ValidationError as error:
            raise InputError(explain(error)) from None

    def flat(self) -> dict[str, Any]:
        """Every field by dotted path, and every key of a mapping (`recipe.losses.mine`)."""
        found = _by_path(self.model_dump(mode="json", by_alias=False))
        for path in open_paths():
            found |= {f"{path}.{key}": value for key, value in found.pop(path).items()}
        return found

    @property
    def match(self) -> str:
        """The size by which its network is matched to the base, or "free"."""
        return self.recipe.match

    def is_active(self, path: str) -> bool:
        """Whether the field at a dotted path has an effect in this configuration."""
        section, name = check_path(path).split(".")[:2]
        return getattr(self, section).is_active(name)

    def result_fields(self) -> dict[str, Any]:
        """The fields of model and recipe that change the trained network, by dotted path.

        An inactive field has the same value everywhere.
        """
        return _by_path({"model": self.model.result_fields(), "recipe": self.recipe.result_fields()})

    def signed_fields(self) -> dict[str, Any]:
        """The fields in the training signature, by dotted path."""
        return _by_path({"model": self.model.signed_fields(), "recipe": self.recipe.signed_fields()})

    def marks_of(self, path: str) -> FieldMarks:
        """The marks of the field at a dotted path."""
        return field_marks(path)

    @property
    def steps(self) -> int | None:
        """Of the training."""
        return self.recipe.steps

    def in_steps(self, train_files: int) -> RunConfig:
        """This configuration with the recipe's epochs converted to steps on a corpus.

        Raises:
            InputError: the recipe has neither steps nor epochs.
        """
        recipe = self.recipe
        if recipe.steps is None and recipe.epochs is None:
            raise InputError(f"recipe {recipe.name!r} has no steps and no epochs; set recipe.steps")
        steps = recipe.steps or math.ceil(recipe.epochs * train_files / recipe.batch_size)  # type: ignore[operator]
        return self.with_changes({"recipe.steps": steps, "recipe.epochs": None})

    @property
    def results_version(self) -> int:
        """The results version of this code, one higher for runs that a change affected alone.

        Since version 2, weight decay applies only to the network's matrices; runs without it are unchanged.
        """
        return RESULTS_VERSION + bool(self.recipe.weight_decay)

    def document(self) -> dict[str, Any]:
        """Its part of `spec.json`."""
        return self.model_dump(mode="json", include={"model", "recipe"})


def _by_path(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{section}.{name}": x for section, fields in sections.items() for name, x in fields.items()}


_SECTIONS: dict[str, type[Section]] = {"model": ModelConfig, "recipe": Recipe, "evaluation": Evaluation}


@cache
def config_paths() -> tuple[str, ...]:
    """The dotted path of every field of a `RunConfig`."""
    return tuple(f"{section}.{name}" for section, kind in _SECTIONS.items() for name in kind.model_fields)


@cache
def open_paths() -> tuple[str, ...]:
    """The dotted path of every mapping field with free keys."""
    return tuple(path for path in config_paths() if field_marks(path).default == {})


def is_path(path: str) -> bool:
    """Whether a dotted path is a field, or a key of a mapping field (`recipe.losses.mine`)."""
    head, _, key = path.rpartition(".")
    return path in config_paths() or (bool(key) and head in open_paths())


def check_path(path: str) -> str:
    """Return `path` if it is a field or a key of one; else raise InputError with the nearest field."""
    if not is_path(path):
        raise InputError(f"unknown setting {path!r}{suggestion(path, config_paths())}")
    return path


def field_marks(path: str) -> FieldMarks:
    """The marks of the field at a dotted path."""
    section, name = check_path(path).split(".")[:2]
    return marks_of(_SECTIONS[section], name)


def is_bookkeeping(path: str) -> bool:
    """Whether the field at a dotted path does not affect the result."""
    return field_marks(path).bookkeeping


def resolve_recipe(recipe: str | Recipe) -> Recipe:
    """The recipe of a name, or the given recipe; InputError if the name is unknown."""
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise InputError(f"unknown recipe {recipe!r}{suggestion(recipe, RECIPES)}")
    return RECIPES[recipe]


def digest(value: Any) -> str:
    """sha256 of a value's canonical JSON, in hexadecimal."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
