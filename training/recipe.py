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
        default=None, description="passes over train; made into steps by the corpus"
    )
    batch_size: PositiveInt = 6
    accumulation: Annotated[PositiveInt, Bookkeeping] = Field(
        default=1, description="micro-batches a step is cut into; the same step up to rounding"
    )
    crop_seconds: PositiveFloat = 2.0
    remix: Annotated[Fraction, Added] = Field(
        default=0.0, description="share of the clips that get another clip's noise, at -5 to 20 dB"
    )
    reverb: Annotated[Fraction, Added] = Field(
        default=0.0, description="share of the clips whose speech, and target, is in a synthetic room"
    )
    gain: Annotated[Fraction, Added] = Field(
        default=0.0, description="share of the clips made louder or softer by up to 10 dB"
    )
    band_mask: Annotated[Fraction, Added] = Field(
        default=0.0, description="share of the clips without a band of up to a fifth of the mel scale"
    )
    target: Annotated[Literal["clean", "pcs"], Added] = Field(
        default="clean", description="what is learned; pcs: clean speech with perceptual contrast stretching"
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
        description="steps that the discriminator learns behind, so that no step waits for its own PESQ",
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
        description="of the steps, the horizon of an exponential average of the weights, which alone is "
        "validated, tested and exported; 0: none",
    )
    clip: PositiveFloat = Field(default=5.0, description="bound on the norm of the gradient")
    precision: Literal["fp32", "tf32", "bf16"] = Field(
        default="fp32", description="of matrix products, convolutions and recurrences; tf32 needs a GPU"
    )
    cuda_graph: Annotated[bool, Bookkeeping] = Field(
        default=False, description="record forward and backward once and replay them on a GPU: fewer launches"
    )
    selection: Annotated[Literal["best", "last"], Added] = Field(
        default="best", description="the weights that are tested: of the best validation PESQ-WB, or the last"
    )
    split: Annotated[Literal["fixed", "seed"], Added] = Field(
        default="fixed",
        description="what is held out for validation: the same in every training, or drawn by the seed",
    )
    validate_every: PositiveInt | None = Field(
        default=None, description="steps between two validations; none: a tenth of the steps, at least 20"
    )
    metric_processes: Annotated[PositiveInt | None, Bookkeeping] = Field(
        default=None,
        description="that measure beside the training; none: as many as the run has cores to itself",
    )
    validation_utterances: PositiveInt | None = Field(
        default=None, description="of the validation split, a fixed draw; none: all"
    )
    checkpoint_every: Annotated[PositiveInt | None, Bookkeeping] = Field(
        default=None, description="steps between two writes of the latest checkpoint; none: about a minute"
    )
    keep_every: Annotated[NonNegativeInt, Bookkeeping] = Field(
        default=0, description="steps between two checkpoints that are kept for good; 0: none"
    )
    width: Annotated[PositiveFloat, Bookkeeping] = Field(
        default=1.0,
        description="channels of every network are scaled by this, to a multiple of 8, at least 16",
    )
    match: Annotated[Literal["free", "parameters", "macs"], Bookkeeping, Added] = Field(
        default="free", description="what every cell of a grid has as many of as the base, by its channels"
    )
    depth: Annotated[PositiveFloat, Bookkeeping] = Field(
        default=1.0, description="layers of every network are scaled by this, rounded down, at least 1"
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
