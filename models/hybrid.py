"""Time layers built from cores: one, two in sequence, or one within chunks of frames and one across them."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig
from .declarations import Declared
from .lookahead import shares
from .parts import CORES


def time_layer(config: ModelConfig) -> nn.Module:
    """Build the time layer of a configuration, in which `lookahead` is that of this layer alone."""
    return DualPathLayer(config) if config.chunk else _cores(config)


def _cores(config: ModelConfig) -> nn.Module:
    names = config.core.split("+")
    return CORES[names[0]](config) if len(names) == 1 else HybridLayer(config, names)


class HybridLayer(nn.Sequential, Declared):
    """Two cores in order, each with its norm and residual (MambAttention: attention, then Mamba)."""

    def __init__(self, config: ModelConfig, names: list[str]) -> None:
        frames = shares(config.lookahead, len(names))
        super().__init__(
            *(
                CORES[name](config.model_copy(update={"core": name, "lookahead": ahead}))
                for name, ahead in zip(names, frames, strict=True)
            )
        )
        ahead = [getattr(part, "looks_ahead", config.direction == "bi") for part in self]
        self.looks_ahead = True if any(said is True for said in ahead) else sum(map(int, ahead))
        self.reach = 1 + sum(getattr(part, "reach", math.inf) - 1 for part in self)


class DualPathLayer(nn.Module, Declared):
    """A layer within chunks of frames, then one across chunks at each position (DPRNN, Luo et al. 2020).

    arXiv:1910.06379. Chunks do not overlap. The last one is zero-padded, and the zeros count in statistics
    over time.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.frames = config.chunk
        self.within, self.across = _cores(config), _cores(config)
        self.looks_ahead = config.direction == "bi"
        self.reach = math.inf

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, same shape."""
        batch, bands, time, channels = x.shape
        x = F.pad(x, (0, 0, 0, -time % self.frames)).unflatten(2, (-1, self.frames))
        x = self.within(x.flatten(1, 2)).view(batch, bands, -1, self.frames, channels).transpose(2, 3)
        x = self.across(x.flatten(1, 2)).view(batch, bands, self.frames, -1, channels).transpose(2, 3)
        return x.flatten(2, 3)[:, :, :time]
