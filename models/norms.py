"""Normalisation of features `(batch, band, time, channel)`."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .bands import EPSILON


class GlobalNorm(nn.Module):
    """GroupNorm(1, channels): statistics of an item over all axes but the batch, a scale for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, ..., channel)`, same shape."""
        return torch.addcmul(self.bias, F.layer_norm(x, x.shape[1:], eps=EPSILON), self.weight)

    def extra_repr(self) -> str:
        return f"channels={len(self.weight)}"


def make_norm(kind: Literal["group", "layer"], channels: int) -> nn.Module:
    """The normalisation of a `ModelConfig.norm`."""
    return GlobalNorm(channels) if kind == "group" else nn.LayerNorm(channels)


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear layer that starts Xavier uniform with zero bias, as every one of this family does."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
