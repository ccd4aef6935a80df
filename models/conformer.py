"""A conformer as a time layer (Gulati et al. 2020, arXiv:2005.08100)."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Heads
from .config import ModelConfig
from .declarations import Declared
from .norms import linear, make_norm
from .tcn import DepthwiseConvolution


class _FeedForward(nn.Sequential):
    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.LayerNorm(channels), linear(channels, 4 * channels), nn.SiLU(), linear(4 * channels, channels)
        )


class _Convolution(nn.Module):
    """Gated linear unit, depthwise convolution, LayerNorm (the paper uses BatchNorm), SiLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n = config.channels
        self.norm = nn.LayerNorm(n)
        self.wide = linear(n, 2 * n)
        ahead = (config.kernel - 1) // 2 if config.direction == "bi" else 0
        self.conv = DepthwiseConvolution(n, config.kernel, ahead=ahead)
        self.inner_norm = nn.LayerNorm(n)
        self.narrow = linear(n, n)

    def forward(self, x: Tensor) -> Tensor:
        y = F.glu(self.wide(self.norm(x)), dim=-1).flatten(0, 1)
        return self.narrow(F.silu(self.inner_norm(self.conv(y)))).view(x.shape)


class ConformerLayer(nn.Module, Declared):
    """Half-step feed-forward, attention, convolution, half-step feed-forward, each residual.

    It is causal if the direction is `uni`.
    """

    reach = math.inf

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n = config.channels
        self.heads = Heads(config)
        self.before = _FeedForward(n)
        self.norm = make_norm(config.norm, n, config.trunk_statistics)
        self.in_proj = linear(n, 3 * n)
        self.out_proj = linear(n, n)
        self.convolution = _Convolution(config)
        self.after = _FeedForward(n)
        self.last_norm = nn.LayerNorm(n)
        self.looks_ahead = self.heads.looks_ahead
        self.hidden_width = 4 * n

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, same shape."""
        x = x + 0.5 * self.before(x)
        x = x + self.out_proj(self.heads.attend(self.in_proj(self.norm(x))))
        x = x + self.convolution(x)
        x = x + 0.5 * self.after(x)
        return self.last_norm(x)
