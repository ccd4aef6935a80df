"""The loss of an enhancement network, on spectrograms and always in float32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .config import Recipe

FLOOR = 1e-10
"""Added to a modulus before compression, as the reference implementation of BSRNN does."""


def compressed_magnitude(spectrum: Tensor, exponent: float = 0.3) -> Tensor:
    """`(|S| + 1e-10) ** exponent` of a complex spectrogram, same shape, real."""
    return (spectrum.abs() + FLOOR) ** exponent


def complex_distance(estimate: Tensor, clean: Tensor) -> Tensor:
    """Mean modulus of the difference of two complex spectrograms `(batch, band, time)`; a scalar."""
    return (estimate - clean).abs().mean()


def magnitude_distance(estimate: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute difference of two compressed magnitudes `(batch, band, time)`; a scalar."""
    return (estimate - clean).abs().mean()


def adversarial_distance(judgement: Tensor) -> Tensor:
    """How far the discriminator's judgements `(batch,)` are from that of clean speech, 1; a scalar."""
    return ((judgement - 1) ** 2).mean()


@dataclass(frozen=True)
class SpectralLoss:
    """The terms that need no discriminator, weighted as a recipe says."""

    complex_weight: float
    magnitude_weight: float
    compression: float

    @classmethod
    def of(cls, recipe: Recipe) -> SpectralLoss:
        return cls(recipe.complex_weight, recipe.magnitude_weight, recipe.compression)

    def __call__(self, estimate: Tensor, clean: Tensor) -> Tensor:
        """Loss of an estimate against clean speech, both complex `(batch, 257, time)`; a scalar.

        Raises:
            ValueError: the shapes differ.
        """
        if estimate.shape != clean.shape:
            raise ValueError(f"estimate of shape {tuple(estimate.shape)}, clean of {tuple(clean.shape)}")
        loss = torch.zeros((), device=estimate.device)
        if self.complex_weight:
            loss = loss + self.complex_weight * complex_distance(estimate, clean)
        if self.magnitude_weight:
            loss = loss + self.magnitude_weight * magnitude_distance(
                compressed_magnitude(estimate, self.compression),
                compressed_magnitude(clean, self.compression),
            )
        return loss
