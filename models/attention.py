"""Self-attention over time with rotary position embeddings (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig
from .declarations import Declared
from .errors import InputError, nearest_multiples
from .norms import linear, make_norm


def rotate(x: Tensor) -> Tensor:
    """Rotate pairs of channels by an angle that grows with time: `(row, head, time, channel)`, same shape."""
    time, width = x.shape[-2:]
    rates = 10000.0 ** (-torch.arange(0, width, 2, device=x.device, dtype=torch.float32) / width)
    angles = torch.arange(time, device=x.device, dtype=torch.float32)[:, None] * rates
    cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


class Heads:
    """Multi-head self-attention with rotary position embeddings.

    Raises:
        InputError: the width of a head is odd; rotary embeddings rotate pairs of channels.
    """

    def __init__(self, config: ModelConfig) -> None:
        n = config.channels
        if n % (2 * config.heads):
            raise InputError(
                f"{n} channels with {config.heads} heads give a head width of {n / config.heads:g}, but "
                f"rotary positions need an even width; {nearest_multiples(n, 2 * config.heads)}"
            )
        self.count = config.heads
        self.causal = config.direction == "uni"
        self.looks_ahead = config.lookahead if self.causal else True

    def attend(self, projected: Tensor) -> Tensor:
        """Queries, keys and values `(batch, band, time, 3 channel)` -> `(batch, band, time, channel)`."""
        rows = projected.flatten(0, 1)
        query, key, value = rows.unflatten(-1, (3, self.count, -1)).permute(2, 0, 3, 1, 4)
        query, key, seen = rotate(query), rotate(key), None
        if self.causal and self.looks_ahead:
            time = query.shape[-2]
            seen = torch.ones(time, time, dtype=torch.bool, device=query.device).tril(self.looks_ahead)
        causal = self.causal and seen is None
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, is_causal=causal)
        return mixed.transpose(1, 2).reshape(*projected.shape[:3], -1)


class AttentionLayer(nn.Module, Declared):
    """`x + MHA(norm(x))`, then `x + Linear(GELU(Linear(LayerNorm(x))))`, in each band."""

    reach = math.inf

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n = config.channels
        self.heads = Heads(config)
        self.norm = make_norm(config.norm, n, config.trunk_statistics)
        self.in_proj = linear(n, 3 * n)
        self.out_proj = linear(n, n)
        self.feed_forward = nn.Sequential(nn.LayerNorm(n), linear(n, 4 * n), nn.GELU(), linear(4 * n, n))
        self.looks_ahead = self.heads.looks_ahead
        self.hidden_width = 4 * n

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, same shape."""
        x = x + self.out_proj(self.heads.attend(self.in_proj(self.norm(x))))
        return x + self.feed_forward(x)
