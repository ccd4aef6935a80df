"""Heads: map features and the noisy spectrogram to the enhanced one. A head owns its decoders."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig
from .declarations import Declared
from .parts import DECODERS


def as_complex(values: Tensor) -> Tensor:
    """`(..., re/im) -> (...)` complex, in at least single precision."""
    if values.dtype not in (torch.float32, torch.float64):
        values = values.float()
    return torch.view_as_complex(values.contiguous())


class FilterHead(nn.Module, Declared):
    """A complex filter of 3 taps over time in each bin: `m0 x[t-1] + m1 x[t] + m2 x[t+1]` (BSRNN).

    With `filter_taps="past"` its taps are `x[t-2]`, `x[t-1]` and `x[t]`, and it does not look ahead. Taps
    beyond the edges are dropped. The decoder's outputs are ordered `(tap, re/im)`. Only the first `used` taps
    are applied, in this order: the current frame, the previous one, the remaining one.
    """

    complex_mask = True
    reach = 3

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.looks_ahead = 1 if config.filter_taps == "centred" else 0
        self.padding = (2 - self.looks_ahead, self.looks_ahead)
        self.used = 3
        self.decoder = DECODERS[config.decoder](config, 6)

    def forward(self, features: Tensor, noisy: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, complex `(batch, 257, time)` -> complex `(batch, 257, time)`."""
        taps = as_complex(self.decoder(features).unflatten(-1, (3, 2))).unbind(-1)
        padded, frames = F.pad(noisy, self.padding), noisy.shape[-1]
        now = self.padding[0]
        used = {now, now - 1} if self.used == 2 else {now} if self.used == 1 else {0, 1, 2}
        # A cut out of `padded` has another memory layout, and so other rounding, than `noisy` itself.
        terms = [
            tap * (noisy if i == now else padded[..., i : i + frames])
            for i, tap in enumerate(taps)
            if i in used
        ]
        return sum(terms[1:], start=terms[0])


class MaskHead(nn.Module, Declared):
    """A complex mask: the filter with one tap."""

    complex_mask = True
    reach = 1

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.decoder = DECODERS[config.decoder](config, 2)

    def forward(self, features: Tensor, noisy: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, complex `(batch, 257, time)` -> complex `(batch, 257, time)`."""
        return as_complex(self.decoder(features)) * noisy


class MagnitudePhaseHead(nn.Module, Declared):
    """A magnitude mask in (0, 1) and a phase offset in (-pi, pi), each from its own decoder."""

    complex_mask = False
    reach = 1

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.magnitude = DECODERS[config.decoder](config, 1)
        self.phase = DECODERS[config.decoder](config, 1)

    def forward(self, features: Tensor, noisy: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, complex `(batch, 257, time)` -> complex `(batch, 257, time)`."""
        return self.apply_to(self.magnitude(features), self.phase(features), noisy)

    @staticmethod
    def apply_to(magnitude: Tensor, phase: Tensor, noisy: Tensor) -> Tensor:
        """Apply decoder outputs `(batch, 257, time, 1)` to the noisy spectrogram.

        Rotating by the offset equals adding it to the noisy phase and wrapping the sum to [-pi, pi].
        """
        real = noisy.real.dtype
        mask = torch.sigmoid(magnitude[..., 0].to(real))
        offset = math.pi * torch.tanh(phase[..., 0].to(real))
        return noisy * torch.complex(mask * offset.cos(), mask * offset.sin())


class MagnitudeOnlyHead(nn.Module, Declared):
    """A magnitude mask in (0, 1); the noisy phase is kept."""

    complex_mask = False
    reach = 1

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.decoder = DECODERS[config.decoder](config, 1)

    def forward(self, features: Tensor, noisy: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, complex `(batch, 257, time)` -> complex `(batch, 257, time)`."""
        return noisy * torch.sigmoid(self.decoder(features)[..., 0].to(noisy.real.dtype))
