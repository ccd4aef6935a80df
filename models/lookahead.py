"""Look-ahead in frames, for time layers that by themselves see none."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def look_ahead(causal: Callable[[Tensor], Tensor], x: Tensor, frames: int) -> Tensor:
    """What a causal map of the third axis puts out `frames` later; the last frame goes on.

    Args:
        causal: `(batch, band, time, channel)`, same shape; a frame depends on itself and those before.
        x: its input, normalised.
        frames: how far ahead the result sees.
    """
    if not frames:
        return causal(x)
    last = x[:, :, -1:].expand(-1, -1, frames, -1)
    return causal(torch.cat([x, last], dim=2))[:, :, frames:]


def shares(frames: int, layers: int) -> list[int]:
    """The frames of each layer, as equal as can be, that add up to so many."""
    return [frames * (i + 1) // layers - frames * i // layers for i in range(layers)]
