"""Look-ahead in frames, for time layers that see none by themselves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .config import ModelConfig, Norm
from .declarations import Declared
from .norms import make_norm


def look_ahead(causal: Callable[[Tensor], Tensor], x: Tensor, frames: int) -> Tensor:
    """The output of a causal map, `frames` later along the third axis; the last frame is repeated.

    Args:
        causal: `(batch, band, time, channel)`, same shape; a frame depends on itself and those before.
        x: its input, normalised.
        frames: how far ahead the result sees.
    """
    if not frames:
        return causal(x)
    last = x[:, :, -1:].expand(-1, -1, frames, -1)
    return causal(torch.cat([x, last], dim=2))[:, :, frames:]


class ResidualBlock(nn.Module, Declared):
    """`x + along_time(norm(x))`; a subclass has `along_time`, of the same shape.

    Args:
        norm: over which axes.
        ahead: frames that the block sees ahead.
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
    """The frames of each layer, as equal as possible; their sum is `frames`."""
    return [frames * (i + 1) // layers - frames * i // layers for i in range(layers)]
