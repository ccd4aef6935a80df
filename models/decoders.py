"""Decoders: map features to values for each bin, which the heads turn into a mask."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .bands import BandGroup, StackedLinear, band_groups
from .config import ModelConfig
from .declarations import Declared
from .norms import EPSILON, linear, standardise_so_far
from .parts import HEADS


def is_complex_mask(config: ModelConfig) -> bool:
    """Whether the decoder's outputs are pairs of real and imaginary parts."""
    return getattr(HEADS[config.head], "complex_mask", True)


def hidden_widths(config: ModelConfig) -> list[int]:
    """The decoder's hidden width for each band."""
    expansion = config.decoder_expansion
    each = expansion if isinstance(expansion, tuple) else (expansion,) * len(config.band_widths)
    return [max(1, round(e * config.channels)) for e in each]


class _DecoderGroup(nn.Module):
    """The two linear layers of neighbouring bands of one width."""

    def __init__(self, group: BandGroup, channels: int, hidden: int, outputs: int, gated: bool) -> None:
        super().__init__()
        self.group, self.outputs, self.gated = group, outputs, gated
        self.inner = StackedLinear(group.count, channels, hidden)
        self.outer = StackedLinear(group.count, hidden, group.width * outputs * (2 if gated else 1))

    def forward(self, x: Tensor) -> Tensor:
        """`(band, batch, time, channel) -> (batch, bin, time, output)`, the bins of this group."""
        count, batch, time, _ = x.shape
        y = self.outer(torch.tanh(self.inner(x.flatten(1, 2))))
        if self.gated:
            y = F.glu(y, dim=-1)
        y = y.view(count, batch, time, self.group.width, self.outputs)
        return y.permute(1, 0, 3, 2, 4).flatten(1, 2)


class PerBandDecoder(nn.Module, Declared):
    """The mask decoder of BSRNN: per band GroupNorm(1, N), Linear(N, eN), Tanh, Linear(eN, ...).

    For a complex mask, the last layer is twice as wide and feeds a gated linear unit. The outputs of a band
    are ordered `(bin, output)`.
    """

    def __init__(self, config: ModelConfig, outputs: int) -> None:
        super().__init__()
        hidden = hidden_widths(config)
        gated = is_complex_mask(config)
        self.statistics = config.decoder_statistics
        self.norm_weight = nn.Parameter(torch.ones(len(config.band_widths), config.channels))
        self.norm_bias = nn.Parameter(torch.zeros(len(config.band_widths), config.channels))
        groups = band_groups(config.band_widths, hidden)
        self.counts = [group.count for group in groups]
        self.groups = nn.ModuleList(
            _DecoderGroup(group, config.channels, hidden[group.first], outputs, gated) for group in groups
        )
        self.hidden_width = hidden[0] if len(set(hidden)) == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel) -> (batch, 257, time, output)`."""
        _, _, time, channels = x.shape
        if self.statistics == "cumulative":
            x = standardise_so_far(x, [3], time=2).transpose(0, 1)
        else:
            x = F.layer_norm(x, (time, channels), eps=EPSILON).transpose(0, 1)
        scale, shift = self.norm_weight[:, None, None], self.norm_bias[:, None, None]
        x = torch.addcmul(shift, x, scale)
        pieces = x.split(self.counts)
        return torch.cat([group(piece) for group, piece in zip(self.groups, pieces, strict=True)], dim=1)


class SharedDecoder(nn.Module, Declared):
    """The 25K decoder: Linear(N, N), LayerNorm, GELU, Linear(N, taps) for all bands, then Linear(bands, 257).

    The real and imaginary parts of a complex mask are equal.
    """

    def __init__(self, config: ModelConfig, outputs: int) -> None:
        super().__init__()
        self.repeats = 2 if is_complex_mask(config) else 1
        n = config.channels
        self.values = nn.Sequential(
            linear(n, n), nn.LayerNorm(n), nn.GELU(), linear(n, outputs // self.repeats)
        )
        self.bins = linear(len(config.band_widths), config.bins)
        self.hidden_width = n

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel) -> (batch, 257, time, output)`."""
        y = self.bins(self.values(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return y.repeat_interleave(self.repeats, dim=-1)
