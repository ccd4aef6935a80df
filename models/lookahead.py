"""Look-ahead in frames for causal time layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .config import ModelConfig, Norm
from .declarations import Declared
from .norms import make_norm


def look_ahead(causal: Callable[[Tensor], Tensor], x: Tensor, frames: int) -> Tensor:
    """Give a causal map look-ahead: shift its output by `frames` along time, repeating the last input frame.

    Args:
        causal: maps `(batch, band, time, channel)` to the same shape; a frame depends on itself and earlier
            ones.
        x: its normalised input.
        frames: look-ahead of the result.
    """
    if not frames:
        return causal(x)
    last = x[:, :, -1:].expand(-1, -1, frames, -1)
    return causal(torch.cat([x, last], dim=2))[:, :, frames:]


class ResidualBlock(nn.Module, Declared):
    """`x + along_time(norm(x))`; a subclass defines `along_time`, which keeps the shape.

    Args:
        norm: the kind of normalisation.
        ahead: look-ahead of the block, in frames.
    """

    def __init__(self, config: ModelConfig, norm: Norm = "layer", ahead: int = 0) -> None:
        super().__init__()
        self.ahead = self.looks_ahead = ahead
        self.norm = make_norm(norm, config.channels, config.trunk_statistics)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, same shape; the block runs along the third axis."""
        return x + look_ahead(self.along_time, self.norm(x), self.ahead)

    def along_time(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def shares(frames: int, layers: int) -> list[int]:
    """Distribute `frames` over the layers as evenly as possible."""
    return [frames * (i + 1) // layers - frames * i // layers for i in range(layers)]
