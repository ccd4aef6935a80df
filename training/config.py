"""What a training is: the recipe, the evaluation, and both joined with a network. Needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from ablate.models.config import PATH, Frozen, ModelConfig, Section, resolve_model
from ablate.models.errors import InputError, explain
from ablate.models.fields import ActiveIf, ActiveUnless, Added, Bookkeeping, FieldMarks, marks_of, stored_as
from ablate.models.registry import suggestion

RESULTS_VERSION = 1
"""Raised when a change of code changes results; a golden test notices. Part of every signature."""


def _known_metric(name: str) -> str:
    from .metrics.registry import find_metric

    return find_metric(name).name


def _listed(names: Any) -> Any:
    return tuple(names.split(",")) if isinstance(names, str) else names


MetricName = Annotated[str, AfterValidator(_known_metric)]
Fraction = Annotated[float, Field(ge=0, le=1)]
_Adversarial = ActiveUnless("adversarial_weight", 0.0)
_Decaying = ActiveIf("schedule", "step", "exponential")


class Recipe(Section):
    """How a network is trained. Lengths of the training are in optimiser steps.

    How to add a field, and what its marks mean: see `models.fields`.
    """

    name: Annotated[str, Bookkeeping] = "quick"
    steps: PositiveInt | None = Field(None, description="optimiser steps; give this or epochs")
    epochs: PositiveFloat | None = Field(None, description="passes over train; made into steps by the corpus")
    batch_size: PositiveInt = 6
    accumulation: Annotated[PositiveInt, Bookkeeping] = Field(
        1, description="micro-batches a step is cut into; the same step up to rounding"
    )
    crop_seconds: PositiveFloat = 2.0
    remix: Annotated[Fraction, Added] = Field(
        0.0, description="share of the clips that get another clip's noise, at -5 to 20 dB"
    )
    reverb: Annotated[Fraction, Added] = Field(
        0.0,
        description="share of the clips whose speech, and target, is in a synthetic room",
    )
    gain: Annotated[Fraction, Added] = Field(
        0.0, description="share of the clips made louder or softer by up to 10 dB"
    )
    band_mask: Annotated[Fraction, Added] = Field(
        0.0, description="share of the clips without a band of up to a fifth of the mel scale"
    )
    target: Annotated[Literal["clean", "pcs"], Added] = Field(
        "clean", description="what is learned; pcs: clean speech with perceptual contrast stretching"
    )
    complex_weight: NonNegativeFloat = Field(0.5, description="of the mean modulus of the complex difference")
    magnitude_weight: NonNegativeFloat = Field(0.5, description="of the L1 distance of compressed magnitudes")
    si_sdr_weight: Annotated[NonNegativeFloat, Added] = Field(
        0.0, description="of minus the scale-invariant SDR in dB"
    )
    stft_weight: Annotated[NonNegativeFloat, Added] = Field(
        0.0, description="of the multi-resolution STFT distance"
    )
    waveform_weight: Annotated[NonNegativeFloat, Added] = Field(
        0.0, description="of the L1 distance of the waveforms"
    )
    phase_weight: Annotated[NonNegativeFloat, Added] = Field(
        0.0, description="of MP-SENet's anti-wrapping phase distances"
    )
    consistency_weight: Annotated[NonNegativeFloat, Added] = Field(
        0.0, description="of the distance between the estimate and the transform of its waveform"
    )
    losses: Annotated[dict[str, NonNegativeFloat], Added] = Field(
        {}, description="weights of losses that plug-ins register"
    )
    compression: Annotated[
        PositiveFloat, ActiveUnless("magnitude_weight", 0.0), ActiveUnless("losses", {}), _Adversarial
    ] = Field(0.3, description="exponent of the compressed magnitudes")
    adversarial_weight: NonNegativeFloat = Field(
        0.0, description="of the metric discriminator's term in the network's loss; 0: no discriminator"
    )
    adversarial_start: Annotated[Fraction, _Adversarial] = Field(
        0.5, description="of the steps, when the term enters the loss"
    )
    discriminator_start: Annotated[Fraction, _Adversarial] = Field(
        0.0, description="of the steps, when the discriminator starts"
    )
    discriminator_learning_rate: Annotated[PositiveFloat, _Adversarial] = 1e-3
    discriminator_lag: Annotated[NonNegativeInt, Added, _Adversarial] = Field(
        default=0,
        description="steps that the discriminator learns behind, so that no step waits for its own PESQ",
        **stored_as("judge_lag", "discriminator_lag"),
    )
    discriminator_fraction: Annotated[float, Added, _Adversarial] = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of the clips, at least one, that the discriminator learns from",
        **stored_as("judged_clips", "discriminator_fraction"),
    )
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    schedule: Literal["constant", "step", "exponential", "cosine"] = "step"
    decay: Annotated[PositiveFloat, _Decaying] = Field(0.98, description="factor of each decay")
    decay_every: Annotated[PositiveFloat, _Decaying] = Field(
        1 / 12, description="of the steps, between two decays"
    )
    warmup: Annotated[Fraction, Added] = Field(
        0.0, description="of the steps, over which the learning rate rises to the schedule's"
    )
    ema: Annotated[Fraction, Added] = Field(
        0.0,
        description="of the steps, the horizon of an exponential average of the weights, which alone is "
        "validated, tested and exported; 0: none",
    )
    clip: PositiveFloat = Field(5.0, description="bound on the norm of the gradient")
    precision: Literal["fp32", "tf32", "bf16"] = Field(
        "fp32", description="of matrix products, convolutions and recurrences; tf32 needs a GPU"
    )
    cuda_graph: Annotated[bool, Bookkeeping] = Field(
        False, description="record forward and backward once and replay them on a GPU: fewer launches"
    )
    selection: Annotated[Literal["best", "last"], Added] = Field(
        "best", description="the weights that are tested: of the best validation PESQ-WB, or the last"
    )
    split: Annotated[Literal["fixed", "seed"], Added] = Field(
        "fixed",
        description="what is held out for validation: the same in every training, or drawn by the seed",
    )
    validate_every: PositiveInt | None = Field(
        None, description="steps between two validations; none: a tenth of the steps, at least 20"
    )
    metric_processes: Annotated[PositiveInt | None, Bookkeeping] = Field(
        None, description="that measure beside the training; none: as many as the run has cores to itself"
    )
    validation_utterances: PositiveInt | None = Field(
        None, description="of the validation split, a fixed draw; none: all"
    )
    checkpoint_every: Annotated[PositiveInt | None, Bookkeeping] = Field(
        None, description="steps between two writes of the latest checkpoint; none: about a minute"
    )
    keep_every: Annotated[NonNegativeInt, Bookkeeping] = Field(
        0, description="steps between two checkpoints that are kept for good; 0: none"
    )
    width: Annotated[PositiveFloat, Bookkeeping] = Field(
        1.0, description="channels of every network are scaled by this, to a multiple of 8, at least 16"
    )
    match: Annotated[Literal["free", "parameters", "macs"], Bookkeeping, Added] = Field(
        "free", description="what every cell of a grid has as many of as the base, by its channels"
    )
    depth: Annotated[PositiveFloat, Bookkeeping] = Field(
        1.0, description="layers of every network are scaled by this, rounded down, at least 1"
    )

    def validation_interval(self, steps: int) -> int:
        """Steps between two validations of a training of so many steps."""
        return self.validate_every or max(20, -(-steps // 10))

    def scheduled(self, progress: float) -> float:
        """The share of the learning rate that the schedule leaves after a part of the steps."""
        if self.schedule == "step":
            return self.decay ** math.floor(progress / self.decay_every + 1e-9)
        if self.schedule == "exponential":
            return self.decay ** (progress / self.decay_every)
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        return 1.0

    def shrink(self, model: ModelConfig) -> ModelConfig:
        """The network this recipe trains in place of `model`: one rule for every network."""
        return model.model_copy(
            update={
                "channels": model.channels
                if self.width == 1
                else max(16, round(model.channels * self.width / 8) * 8),
                "layers": max(1, int(model.layers * self.depth)),
                "crossband_layers": max(1, int(model.crossband_layers * self.depth)),
            }
        )


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
        name="small",
        steps=1500,
        crop_seconds=2.0,
        validation_utterances=32,
        width=0.25,
        depth=0.5,
    ),
    "reference": Recipe(
        name="reference",
        epochs=120,
        adversarial_weight=1.0,
        validate_every=1000,
        validation_utterances=128,
    ),
}
"""Named recipes. `reference` is the published one (BSRNN's reference implementation)."""


class Evaluation(Section):
    """What is done with a trained network at test time; trainings are shared between evaluations."""

    post_processing: Literal["none", "pcs"] = Field(
        "none", description="pcs: perceptual contrast stretching of the enhanced speech"
    )
    taps: Annotated[Literal[1, 2, 3], Added] = Field(
        3, description="taps of the filter head that are used: now, the frame before, the third"
    )
    mix_back: Annotated[Fraction, Added] = Field(
        0.0, description="share of the noisy signal in the output, before the post-processing"
    )
    metrics: Annotated[tuple[MetricName, ...], BeforeValidator(_listed), Added] = Field(
        (), description="measures taken on test beside the usual ones, e.g. dnsmos_ovrl"
    )


class EvaluationJob(Frozen):
    """One scoring of a training on a test set.

    Attributes:
        signature: names the scores' file.
        test_path: corpus whose test split is scored; none: the training corpus' own.
    """

    signature: str
    evaluation: Evaluation = Evaluation()
    test_path: str | None = None
    test_digest: str


class RunConfig(Frozen):
    """A network, how it is trained and how it is evaluated: all that a cell of a grid is."""

    model: ModelConfig
    recipe: Recipe
    evaluation: Evaluation = Evaluation()

    @classmethod
    def of(cls, preset: str | ModelConfig, recipe: str | Recipe = "quick") -> RunConfig:
        """A preset under a recipe, shrunk as the recipe says.

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
            InputError: a path names no field (the nearest is suggested), or a value is refused.
        """
        data = self.model_dump(by_alias=False)
        for path, value in changes.items():
            part, field, *key = check_path(path).split(".", 2)
            if (
                key
                and str(data[part][field].get(key[0])).startswith(PATH)
                and not str(value).startswith(PATH)
            ):
                value = f"{PATH}{value}"
            data[part][field] = data[part][field] | {key[0]: value} if key else value
        try:
            return type(self).model_validate(data)
        except ValidationError as error:
            raise InputError(explain(error)) from None

    def flat(self) -> dict[str, Any]:
        """Every field by dotted path; of a mapping each of its keys (`recipe.losses.mine`)."""
        found = {
            f"{part}.{field}": value
            for part, fields in self.model_dump(mode="json", by_alias=False).items()
            for field, value in fields.items()
        }
        for path in open_paths():
            found |= {f"{path}.{key}": value for key, value in found.pop(path).items()}
        return found

    def is_active(self, path: str) -> bool:
        """Whether the field at a dotted path means anything in this configuration."""
        section, name = check_path(path).split(".")[:2]
        return self._sections[section].is_active(name)

    def result_fields(self) -> dict[str, Any]:
        """The fields of model and recipe that change the trained network, by dotted path.

        One that is not read has the same value everywhere.
        """
        return {
            f"{section}.{name}": value
            for section in ("model", "recipe")
            for name, value in self._sections[section].result_fields().items()
        }

    def signed_fields(self) -> dict[str, Any]:
        """The fields that the training signature is made of, by dotted path."""
        return {
            f"{section}.{name}": value
            for section in ("model", "recipe")
            for name, value in self._sections[section].signed_fields().items()
        }

    @property
    def _sections(self) -> dict[str, Section]:
        return {"model": self.model, "recipe": self.recipe, "evaluation": self.evaluation}


_SECTIONS: dict[str, type[Section]] = {"model": ModelConfig, "recipe": Recipe, "evaluation": Evaluation}


@cache
def config_paths() -> tuple[str, ...]:
    """The dotted path of every field of a `RunConfig`."""
    return tuple(f"{section}.{name}" for section, kind in _SECTIONS.items() for name in kind.model_fields)


@cache
def open_paths() -> tuple[str, ...]:
    """The dotted path of every field that is a mapping with keys of the user's own."""
    return tuple(path for path in config_paths() if field_marks(path).default == {})


def is_path(path: str) -> bool:
    """Whether a dotted path names a field, or a key of one that is a mapping (`recipe.losses.mine`)."""
    head, _, key = path.rpartition(".")
    return path in config_paths() or (bool(key) and head in open_paths())


def check_path(path: str) -> str:
    """Return `path` if it names a field or a key of one; raise InputError with the nearest one otherwise."""
    if not is_path(path):
        raise InputError(f"unknown setting {path!r}{suggestion(path, config_paths())}")
    return path


def field_marks(path: str) -> FieldMarks:
    """What the field at a dotted path says of itself."""
    section, name = check_path(path).split(".")[:2]
    return marks_of(_SECTIONS[section], name)


def is_bookkeeping(path: str) -> bool:
    """Whether the field at a dotted path leaves the result as it is."""
    return field_marks(path).bookkeeping


def resolve_recipe(recipe: str | Recipe) -> Recipe:
    """The recipe of a name, or the recipe itself.

    Raises:
        InputError: no recipe has that name.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise InputError(f"unknown recipe {recipe!r}{suggestion(recipe, RECIPES)}")
    return RECIPES[recipe]


def digest(value: Any) -> str:
    """sha256 of a value's canonical JSON, in hexadecimal."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
