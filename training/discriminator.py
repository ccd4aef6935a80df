"""The metric discriminator: learns the PESQ of two magnitudes (MetricGAN, Fu et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from .transfer import to_device

DROPOUT = 0.3
CEILING = 1.2


class Discriminator(nn.Module):
    """Estimate of the normalised PESQ of a magnitude against a reference magnitude.

    The network of CMGAN (Cao et al. 2022), trained as in BSRNN's reference implementation: four spectrally
    normalised strided convolutions, a maximum over time and frequency, two linear layers, and a sigmoid of
    learned slope with ceiling 1.2. 181,650 parameters at the default width.

    Args:
        width: channels after the first convolution; they double three times.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = 2
        for out in (width, 2 * width, 4 * width, 8 * width):
            blocks += [
                spectral_norm(nn.Conv2d(channels, out, 4, stride=2, padding=1, bias=False)),
                nn.InstanceNorm2d(out, affine=True),
                nn.PReLU(out),
            ]
            channels = out
        self.convolutions = nn.Sequential(*blocks)
        self.features = 4 * width
        self.hidden = spectral_norm(nn.Linear(8 * width, 4 * width))
        self.activation = nn.PReLU(4 * width)
        self.output = spectral_norm(nn.Linear(4 * width, 1))
        self.slope = nn.Parameter(torch.ones(1))

    def dropout_mask(self, batch: int) -> Tensor:
        """A draw of the dropout between the linear layers, `(batch, feature)`, already scaled."""
        keep = torch.full((batch, self.features), 1 - DROPOUT, device=self.slope.device)
        return torch.bernoulli(keep) / (1 - DROPOUT)

    def forward(self, reference: Tensor, judged: Tensor, mask: Tensor | None = None) -> Tensor:
        """Estimates of `(PESQ_wb + 0.5) / 5`, `(batch,)`, of compressed magnitudes `(batch, band, time)`.

        `mask` is the dropout in either mode; when training without one, it is drawn here. With parts of one
        draw, a batch judged in parts equals one judged whole.
        """
        features = self.convolutions(torch.stack([reference, judged], 1))
        hidden = self.hidden(features.flatten(2).max(-1).values)  # as AdaptiveMaxPool2d(1), deterministically
        if mask is None and self.training:
            mask = self.dropout_mask(len(hidden))
        if mask is not None:
            hidden = hidden * mask
        return CEILING * torch.sigmoid(self.slope * self.output(self.activation(hidden)).squeeze(-1))

    def judge_together(self, pairs: Sequence[tuple[Tensor, Tensor]], masks: Tensor) -> list[Tensor]:
        """Judge pairs of magnitudes in one forward, equal to `forward` for each in turn up to rounding.

        In training each forward is one power iteration of the spectral norms, so this one takes as many as
        there are pairs. `masks` of the dropout are `(pair, batch, feature)`.
        """
        references, judged = (torch.cat(side) for side in zip(*pairs, strict=True))
        norms: list[Any] = [part for part in self.modules() if hasattr(part, "n_power_iterations")]
        try:
            for norm in norms:
                norm.n_power_iterations = len(pairs)
            return list(self(references, judged, masks.flatten(0, 1)).chunk(len(pairs)))
        finally:
            for norm in norms:
                norm.n_power_iterations = 1


def target(pesq_wb: float) -> float:
    """The discriminator's target for a PESQ: `(PESQ_wb + 0.5) / 5`, in [0, 1.03]."""
    return (pesq_wb + 0.5) / 5


def discriminator_loss(
    clean_on_clean: Tensor, pairs: Sequence[tuple[Tensor, Sequence[float | None] | Tensor]]
) -> tuple[Tensor, int]:
    """Squared error of the discriminator against measured PESQ.

    Args:
        clean_on_clean: judgements `(batch,)` of clean speech against itself, with target 1.
        pairs: judgements `(batch,)` with the measured PESQ of each clip (a clip with None is left out), or
            with their targets, `(batch,)`.

    Returns:
        The loss, a scalar, and how many clips were left out.
    """
    loss = ((clean_on_clean - 1) ** 2).mean()
    dropped = 0
    for judged, measured in pairs:
        if isinstance(measured, Tensor):
            loss = loss + ((judged - measured) ** 2).mean()
            continue
        kept = [i for i, value in enumerate(measured) if value is not None]
        dropped += len(measured) - len(kept)
        if kept:
            targets = [target(value) for value in measured if value is not None]
            wanted = to_device(torch.tensor(targets, dtype=judged.dtype), judged.device)
            if len(kept) < len(measured):
                judged = judged[to_device(torch.tensor(kept), judged.device)]
            loss = loss + ((judged - wanted) ** 2).mean()
    return loss, dropped
