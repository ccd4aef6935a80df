"""Splits a spectrogram into bands and computes their features; bands of equal width are batched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import Statistics
from .layouts import BSRNN
from .norms import EPSILON, standardise_so_far


@dataclass(frozen=True)
class BandGroup:
    """Neighbouring bands of equal shape: bands `[first, first + count)` of `width` bins from bin `start`."""

    first: int
    count: int
    width: int
    start: int

    @property
    def bands(self) -> slice:
        return slice(self.first, self.first + self.count)

    @property
    def bins(self) -> slice:
        return slice(self.start, self.start + self.count * self.width)


def band_groups(widths: Sequence[int] = BSRNN, sizes: Sequence[int] | None = None) -> list[BandGroup]:
    """Group neighbouring bands of equal width and, if `sizes` are given, of equal size.

    Raises:
        ValueError: `sizes` does not have one number for each band.
    """
    sizes = [0] * len(widths) if sizes is None else sizes
    if len(sizes) != len(widths):
        raise ValueError(f"{len(sizes)} sizes for {len(widths)} bands; give one size per band")
    groups, first, start = [], 0, 0
    for (width, _), run in groupby(zip(widths, sizes, strict=True)):
        count = len(list(run))
        groups.append(BandGroup(first, count, width, start))
        first, start = first + count, start + count * width
    return groups


class StackedLinear(nn.Module):
    """One linear layer for each of several bands, as one batched matrix product.

    `weight` is `(band, in, out)`, initialised Xavier uniform; `bias` is `(band, out)`, initialised to zero.
    """

    def __init__(self, bands: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(bands, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(bands, outputs))
        for matrix in self.weight:
            nn.init.xavier_uniform_(matrix)

    def forward(self, x: Tensor) -> Tensor:
        """`(band, row, in) -> (band, row, out)`."""
        return torch.baddbmm(self.bias[:, None], x, self.weight)

    def extra_repr(self) -> str:
        bands, inputs, outputs = self.weight.shape
        return f"bands={bands}, in={inputs}, out={outputs}"


class _SplitGroup(nn.Module):
    """Normalisation and linear layers of neighbouring bands of one width."""

    def __init__(self, group: BandGroup, channels: int, statistics: Statistics) -> None:
        super().__init__()
        self.statistics = statistics
        self.group = group
        self.norm_weight = nn.Parameter(torch.ones(group.count, 2 * group.width))
        self.norm_bias = nn.Parameter(torch.zeros(group.count, 2 * group.width))
        self.linear = StackedLinear(group.count, 2 * group.width, channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, 257, time, re/im) -> (band, batch, time, channel)`, the bands of this group."""
        count, width = self.group.count, self.group.width
        batch, _, time, _ = x.shape
        bins = x[:, self.group.bins]
        if self.statistics == "cumulative":
            bins = standardise_so_far(bins.reshape(batch, count, width, time, 2), [2, 4], time=3)
        else:
            bins = F.group_norm(bins.reshape(batch, count, -1), count, eps=EPSILON)
            bins = bins.view(batch, count, width, time, 2)
        rows = bins.permute(1, 0, 3, 2, 4).reshape(count, batch * time, 2 * width)
        rows = torch.addcmul(self.norm_bias[:, None], rows, self.norm_weight[:, None])
        return self.linear(rows).view(count, batch, time, -1)


class BandSplit(nn.Module):
    """Maps a spectrogram to features: per band, GroupNorm(1) over (re/im, bin, time), then a linear layer.

    Cumulative statistics use only the frames so far. The input of a band's linear layer is interleaved:
    re and im of its first bin, re and im of its second bin, ...
    """

    def __init__(
        self, channels: int, statistics: Statistics = "utterance", widths: Sequence[int] = BSRNN
    ) -> None:
        super().__init__()
        self.statistics = statistics
        self.groups = nn.ModuleList(_SplitGroup(group, channels, statistics) for group in band_groups(widths))

    def forward(self, noisy: Tensor) -> Tensor:
        """Complex `(batch, 257, time) -> (batch, band, time, channel)`."""
        x = torch.view_as_real(noisy)
        return torch.cat([group(x) for group in self.groups]).transpose(0, 1)
