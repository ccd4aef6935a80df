"""The losses of an enhancement network by name, on spectrograms and always in float32.

To add a loss, add one entry to `LOSSES` and its weight to `Recipe`; a plug-in calls `register`, and
`recipe.losses.<name>` weights it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ablate.models.errors import InputError
from ablate.models.registry import suggestion
from ablate.models.spectral import istft, stft

from .config import Recipe

FLOOR = 1e-10
"""Added to a modulus before compression, as in the reference implementation of BSRNN."""

RESOLUTIONS = ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200))
"""Points, hop and window of each transform of `stft_distance` (Yamamoto et al. 2020, arXiv:1910.11480)."""


@dataclass(frozen=True, eq=False)
class Estimated:
    """An estimate and clean speech, with results that several losses share.

    Attributes:
        estimate, clean: complex `(batch, 257, time)`.
        compression: exponent of the compressed magnitudes.
        outputs: everything that the network returned.
        own: the network's own loss.
    """

    estimate: Tensor
    clean: Tensor
    compression: float = 0.3
    outputs: Any = None
    own: Callable[[], Tensor] | None = None

    def __post_init__(self) -> None:
        shapes = tuple(self.estimate.shape), tuple(self.clean.shape)
        if shapes[0] != shapes[1]:
            raise ValueError(f"estimate of shape {shapes[0]}, clean of {shapes[1]}")

    @cached_property
    def waves(self) -> tuple[Tensor, Tensor]:
        """Estimate and clean speech as waveforms `(batch, sample)`."""
        return istft(self.estimate), istft(self.clean)


def compressed_magnitude(spectrum: Tensor, exponent: float = 0.3) -> Tensor:
    """`(|S| + 1e-10) ** exponent` of a complex spectrogram, same shape, real."""
    return (spectrum.abs() + FLOOR) ** exponent


def complex_distance(pair: Estimated) -> Tensor:
    """Mean modulus of the difference of the complex spectrograms; a scalar."""
    return (pair.estimate - pair.clean).abs().mean()


def magnitude_distance(pair: Estimated) -> Tensor:
    """Mean absolute difference of the compressed magnitudes; a scalar."""
    estimate = compressed_magnitude(pair.estimate, pair.compression)
    return (estimate - compressed_magnitude(pair.clean, pair.compression)).abs().mean()


def negative_si_sdr(pair: Estimated) -> Tensor:
    """Minus the scale-invariant SDR in dB (Le Roux et al. 2019, arXiv:1811.02508), mean over the batch."""
    estimate, clean = pair.waves
    tiny = torch.finfo(clean.dtype).eps
    scale = (estimate * clean).sum(-1, keepdim=True) / (clean.square().sum(-1, keepdim=True) + tiny)
    target = scale * clean
    ratio = (target.square().sum(-1) + tiny) / ((estimate - target).square().sum(-1) + tiny)
    return -10 / math.log(10) * ratio.log().mean()


def waveform_distance(pair: Estimated) -> Tensor:
    """Mean absolute difference of the waveforms; a scalar."""
    estimate, clean = pair.waves
    return (estimate - clean).abs().mean()


def stft_distance(pair: Estimated) -> Tensor:
    """Spectral convergence plus L1 of log magnitudes, mean over `RESOLUTIONS`; a scalar."""
    total = pair.clean.real.new_zeros(())
    for points, hop, length in RESOLUTIONS:
        window = torch.hann_window(length, device=total.device, dtype=total.dtype)
        estimate, clean = (
            torch.stft(
                wave, points, hop, length, window, center=True, pad_mode="constant", return_complex=True
            )
            .abs()
            .clamp(min=1e-5)
            for wave in pair.waves
        )
        convergence = torch.linalg.vector_norm(clean - estimate) / torch.linalg.vector_norm(clean)
        total = total + convergence + (clean.log() - estimate.log()).abs().mean()
    return total / len(RESOLUTIONS)


def unwrapped(angle: Tensor) -> Tensor:
    """The distance of angles from the nearest multiple of 2 pi, in radians (MP-SENet's anti-wrapping)."""
    return (angle - 2 * math.pi * torch.round(angle / (2 * math.pi))).abs()


def phase_distance(pair: Estimated) -> Tensor:
    """Anti-wrapped distance of instantaneous phase, group delay and angular frequency, summed; a scalar.

    MP-SENet (Lu et al. 2023, arXiv:2305.13686): the error itself, its difference between neighbouring bins,
    and its difference between neighbouring frames, each a mean.
    """
    error = pair.estimate.angle() - pair.clean.angle()
    parts = [error, error.diff(dim=1), error.diff(dim=2)]
    return torch.stack([unwrapped(part).mean() for part in parts if part.numel()]).sum()


def inconsistency(pair: Estimated) -> Tensor:
    """Mean modulus of the estimate minus the transform of its own waveform; a scalar.

    Zero if the estimate is the spectrogram of a signal (Le Roux et al. 2008; Wisdom et al. 2019).
    """
    return (pair.estimate - stft(pair.waves[0])).abs().mean()


def adversarial_distance(judgement: Tensor) -> Tensor:
    """Distance of the discriminator's judgements `(batch,)` from that of clean speech, 1; a scalar."""
    return ((judgement - 1) ** 2).mean()


def loss_of_network(pair: Estimated) -> Tensor:
    """The network's own `loss(outputs, clean)`, a scalar; InputError if it has none."""
    if pair.own is None:
        raise InputError("recipe.losses.network is set, but there is no network to provide a loss")
    return pair.own()


LossFunction = Callable[[Estimated], Tensor]

LOSSES: dict[str, tuple[str, LossFunction]] = {
    "complex": ("complex_weight", complex_distance),
    "magnitude": ("magnitude_weight", magnitude_distance),
    "si_sdr": ("si_sdr_weight", negative_si_sdr),
    "stft": ("stft_weight", stft_distance),
    "waveform": ("waveform_weight", waveform_distance),
    "phase": ("phase_weight", phase_distance),
    "consistency": ("consistency_weight", inconsistency),
}
"""Name -> its weight in the recipe, and the loss. The training step adds the discriminator's term
(`adversarial_weight`)."""

_plugins: dict[str, LossFunction] = {"network": loss_of_network}
"""Losses for `recipe.losses`: the network's own, and those that plug-ins register."""


def register(name: str, loss: LossFunction) -> None:
    """Add a loss of a plug-in; `recipe.losses.<name>` weights it.

    `pair.outputs` is everything that the network returned; `recipe.losses.network` weights the network's own
    loss.

    Raises:
        InputError: another loss has the name.
    """
    if name in LOSSES or _plugins.get(name, loss) is not loss:
        raise InputError(f"loss {name!r} exists already; choose another name")
    _plugins[name] = loss


@dataclass(frozen=True)
class WeightedLoss:
    """The weighted sum of a recipe's losses, without the discriminator's."""

    terms: tuple[tuple[float, LossFunction], ...]
    compression: float = 0.3

    @classmethod
    def of(cls, recipe: Recipe) -> WeightedLoss:
        """The losses of a recipe; InputError if it weights a loss that no plug-in registered."""
        terms = [(getattr(recipe, field), loss) for field, loss in LOSSES.values()]
        for name, weight in recipe.losses.items():
            if name in LOSSES:
                raise InputError(f"recipe.losses.{name} is built in; set recipe.{LOSSES[name][0]} instead")
            if name not in _plugins:
                raise InputError(
                    f"the recipe weights the loss {name!r}, which no plug-in registered"
                    f"{suggestion(name, _plugins)}"
                )
            terms.append((weight, _plugins[name]))
        return cls(tuple((weight, loss) for weight, loss in terms if weight), recipe.compression)

    def __call__(
        self, estimate: Tensor, clean: Tensor, outputs: Any = None, own: Callable[[], Tensor] | None = None
    ) -> Tensor:
        """Loss of an estimate against clean speech (`Estimated`), a scalar; ValueError if shapes differ."""
        pair = Estimated(estimate, clean, self.compression, outputs, own)
        loss = torch.zeros((), device=estimate.device)
        for weight, term in self.terms:
            loss = loss + weight * term(pair)
        return loss
