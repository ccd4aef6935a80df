"""The fields of a recipe. Needs no torch."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from ablate.models.config import ModelConfig, Section
from ablate.models.fields import ActiveIf, ActiveUnless, Added, Bookkeeping

Fraction = Annotated[float, Field(ge=0, le=1)]
_Adversarial = ActiveUnless("adversarial_weight", 0.0)
_Decaying = ActiveIf("schedule", "step", "exponential")


class Recipe(Section):
    """How a network is trained. Lengths of the training are in optimiser steps.

    To add a field, and for its marks, see `models.fields`.
    """

    name: Annotated[str, Bookkeeping] = "quick"
    steps: PositiveInt | None = Field(default=None, description="optimiser steps; give this or epochs")
    epochs: PositiveFloat | None = Field(
        default=None, description="passes over the training set; converted to steps by its size"
    )
    batch_size: PositiveInt = 6
    accumulation: Annotated[PositiveInt, Bookkeeping] = Field(
        default=1, description="micro-batches per step; the step is the same up to rounding"
    )
    crop_seconds: PositiveFloat = 2.0
    remix: Annotated[Fraction, Added] = Field(
        default=0.0, description="share of the clips that get another clip's noise, at -5 to 20 dB"
    )
    reverb: Annotated[Fraction, Added] = Field(
        default=0.0, description="share of the clips whose speech and target are in a synthetic room"
    )
    gain: Annotated[Fraction, Added] = Field(
        default=0.0, description="share of the clips made louder or softer by up to 10 dB"
    )
    band_mask: Annotated[Fraction, Added] = Field(
        default=0.0, description="share of the clips without a band of up to a fifth of the mel scale"
    )
    target: Annotated[Literal["clean", "pcs"], Added] = Field(
        default="clean", description="training target; pcs: clean speech with perceptual contrast stretching"
    )
    complex_weight: NonNegativeFloat = Field(
        default=0.5, description="of the mean modulus of the complex difference"
    )
    magnitude_weight: NonNegativeFloat = Field(
        default=0.5, description="of the L1 distance of compressed magnitudes"
    )
    si_sdr_weight: Annotated[NonNegativeFloat, Added] = Field(
        default=0.0, description="of minus the scale-invariant SDR in dB"
    )
    stft_weight: Annotated[NonNegativeFloat, Added] = Field(
        default=0.0, description="of the multi-resolution STFT distance"
    )
    waveform_weight: Annotated[NonNegativeFloat, Added] = Field(
        default=0.0, description="of the L1 distance of the waveforms"
    )
    phase_weight: Annotated[NonNegativeFloat, Added] = Field(
        default=0.0, description="of MP-SENet's anti-wrapping phase distances"
    )
    consistency_weight: Annotated[NonNegativeFloat, Added] = Field(
        default=0.0, description="of the distance between the estimate and the transform of its waveform"
    )
    losses: Annotated[dict[str, NonNegativeFloat], Added] = Field(
        default={}, description="weights of losses that plug-ins register"
    )
    compression: Annotated[
        PositiveFloat, ActiveUnless("magnitude_weight", 0.0), ActiveUnless("losses", {}), _Adversarial
    ] = Field(default=0.3, description="exponent of the compressed magnitudes")
    adversarial_weight: NonNegativeFloat = Field(
        default=0.0,
        description="of the metric discriminator's term in the network's loss; 0: no discriminator",
    )
    adversarial_start: Annotated[Fraction, _Adversarial] = Field(
        default=0.5, description="of the steps, when the term enters the loss"
    )
    discriminator_start: Annotated[Fraction, _Adversarial] = Field(
        default=0.0, description="of the steps, when the discriminator starts"
    )
    discriminator_learning_rate: Annotated[PositiveFloat, _Adversarial] = 1e-3
    discriminator_lag: Annotated[NonNegativeInt, Added, _Adversarial] = Field(
        default=0,
        description="steps by which the discriminator lags, so that no step waits for its own PESQ",
        validation_alias=AliasChoices("discriminator_lag", "judge_lag"),
        serialization_alias="judge_lag",
    )
    discriminator_fraction: Annotated[float, Added, _Adversarial] = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of the clips, at least one, that the discriminator learns from",
        validation_alias=AliasChoices("discriminator_fraction", "judged_clips"),
        serialization_alias="judged_clips",
    )
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    schedule: Literal["constant", "step", "exponential", "cosine"] = "step"
    decay: Annotated[PositiveFloat, _Decaying] = Field(default=0.98, description="factor of each decay")
    decay_every: Annotated[PositiveFloat, _Decaying] = Field(
        default=1 / 12, description="of the steps, between two decays"
    )
    warmup: Annotated[Fraction, Added] = Field(
        default=0.0, description="of the steps, over which the learning rate rises to the schedule's"
    )
    ema: Annotated[Fraction, Added] = Field(
        default=0.0,
        description="share of the steps over which weights are averaged exponentially; only the average is "
        "validated, tested and exported then; 0: none",
    )
    clip: PositiveFloat = Field(default=5.0, description="bound on the norm of the gradient")
    precision: Literal["fp32", "tf32", "bf16"] = Field(
        default="fp32", description="of matrix products, convolutions and recurrences; tf32 needs a GPU"
    )
    cuda_graph: Annotated[bool, Bookkeeping] = Field(
        default=False, description="record forward and backward once and replay them on a GPU: fewer launches"
    )
    selection: Annotated[Literal["best", "last"], Added] = Field(
        default="best", description="tested weights: those of the best validation PESQ-WB, or the last"
    )
    split: Annotated[Literal["fixed", "seed"], Added] = Field(
        default="fixed",
        description="validation split: the same in every run, or drawn by the seed",
    )
    validate_every: PositiveInt | None = Field(
        default=None, description="steps between two validations; none: a tenth of the steps, at least 20"
    )
    metric_processes: Annotated[PositiveInt | None, Bookkeeping] = Field(
        default=None,
        description="processes for metrics during training; none: one per core of the run",
    )
    validation_utterances: PositiveInt | None = Field(
        default=None, description="a fixed draw from the validation split; none: all"
    )
    checkpoint_every: Annotated[PositiveInt | None, Bookkeeping] = Field(
        default=None, description="steps between two writes of the latest checkpoint; none: about a minute"
    )
    keep_every: Annotated[NonNegativeInt, Bookkeeping] = Field(
        default=0, description="steps between two checkpoints that are never replaced; 0: none"
    )
    width: Annotated[PositiveFloat, Bookkeeping] = Field(
        default=1.0,
        description="factor on the channels of every network, rounded to a multiple of 8, at least 16",
    )
    match: Annotated[Literal["free", "parameters", "macs"], Bookkeeping, Added] = Field(
        default="free", description="size in which every cell matches the base, by its channels"
    )
    depth: Annotated[PositiveFloat, Bookkeeping] = Field(
        default=1.0, description="factor on the layers of every network, rounded down, at least 1"
    )

    def validation_interval(self, steps: int) -> int:
        """Steps between two validations of a training with this many steps."""
        return self.validate_every or max(20, -(-steps // 10))

    def scheduled(self, progress: float) -> float:
        """The factor of the schedule on the learning rate after a fraction of the steps."""
        if self.schedule == "step":
            return self.decay ** math.floor(progress / self.decay_every + 1e-9)
        if self.schedule == "exponential":
            return self.decay ** (progress / self.decay_every)
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        return 1.0

    def shrink(self, model: ModelConfig) -> ModelConfig:
        """The network that this recipe trains instead of `model`: one rule for all networks."""
        return model.model_copy(
            update={
                "channels": model.channels
                if self.width == 1
                else max(16, round(model.channels * self.width / 8) * 8),
                "layers": max(1, int(model.layers * self.depth)),
                "crossband_layers": max(1, int(model.crossband_layers * self.depth)),
            }
        )
