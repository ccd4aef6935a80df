"""The mLSTM of xLSTM as a time layer (Beck et al. 2024, arXiv:2405.04517), in its parallel form."""

from __future__ import annotations

from math import lcm

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig, Norm
from .errors import InputError, nearest_multiples
from .lookahead import ResidualBlock
from .mamba import MambaLayer
from .norms import cumulative_sum, linear
from .scan.convolution import causal_convolution

BLOCK = 4
"""Block size of the block-diagonal projections to queries, keys and values, as in the public code."""


def parallel_mlstm(query: Tensor, key: Tensor, value: Tensor, gate: Tensor, forget: Tensor) -> Tensor:
    """The outputs `C q / max(|n q|, exp(-m))` of the matrix memory, for all steps at once.

    Args:
        query, key, value: `(row, head, time, channel)`.
        gate, forget: logarithms of the input gate and the forget gate, `(row, head, time)`.

    Returns:
        `(row, head, time, channel)`
    """
    time = query.shape[-2]
    kept = cumulative_sum(forget)
    weight = kept[..., :, None] - kept[..., None, :] + gate[..., None, :]
    later = torch.ones(time, time, dtype=torch.bool, device=query.device).triu(1)
    weight = weight.masked_fill(later, -torch.inf)
    largest = weight.amax(-1, keepdim=True)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 * (weight - largest).exp()
    size = torch.maximum(scores.sum(-1, keepdim=True).abs(), (-largest).exp())
    return scores @ value / (size + 1e-6)


class MLSTMBlock(ResidualBlock):
    """`x + down((norm(mLSTM(up(norm(x)))) + skip * conv) * SiLU(z))`, along the time of each band.

    Raises:
        InputError: the inner width is not a multiple of the number of heads and of the block size, 4.
    """

    def __init__(self, config: ModelConfig, norm: Norm = "layer", ahead: int = 0) -> None:
        super().__init__(config, norm, ahead)
        n, inner, self.heads = config.channels, config.expand * config.channels, config.heads
        if inner % self.heads or inner % BLOCK:
            raise InputError(
                f"{inner} inner channels of xLSTM are not a multiple of {self.heads} heads and of "
                f"{BLOCK}; {nearest_multiples(inner, lcm(self.heads, BLOCK))}"
            )
        bias = config.biases == "with"
        self.exponential = config.gating == "exponential"
        self.up = linear(n, 2 * inner, bias)
        self.conv = nn.Conv1d(inner, inner, config.d_conv, groups=inner, bias=bias)
        self.mixers = nn.Parameter(torch.empty(3, inner // BLOCK, BLOCK, BLOCK))
        nn.init.normal_(self.mixers, std=(2 / (5 * BLOCK)) ** 0.5)
        self.gates = nn.Linear(3 * inner, 2 * self.heads)
        nn.init.zeros_(self.gates.weight)
        with torch.no_grad():
            self.gates.bias[: self.heads].normal_(0, 0.1)
            self.gates.bias[self.heads :].copy_(torch.linspace(3, 6, self.heads))
        self.head_norm = nn.Parameter(torch.ones(inner))
        self.skip = nn.Parameter(torch.ones(inner))
        self.down = linear(inner, n, bias)

    def along_time(self, x: Tensor) -> Tensor:
        main, z = self.up(x.flatten(0, 1)).chunk(2, dim=-1)
        bias = main.new_zeros(main.shape[-1]) if self.conv.bias is None else self.conv.bias
        mixed = causal_convolution(main, self.conv.weight, bias)
        query, key, value = (
            torch.einsum("rtbi,bij->rtbj", part.unflatten(-1, (-1, BLOCK)), mixer).flatten(-2)
            for part, mixer in zip((mixed, mixed, main), self.mixers, strict=True)
        )
        gates = self.gates(torch.cat([query, key, value], dim=-1)).transpose(1, 2)
        with torch.autocast(x.device.type, enabled=False):
            gate, forget = (
                gates.float().chunk(2, dim=1) if gates.dtype != torch.float64 else gates.chunk(2, 1)
            )
            gate = gate if self.exponential else F.logsigmoid(gate)
            query, key, value = (
                part.to(gate.dtype).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                for part in (query, key, value)
            )
            y = parallel_mlstm(query, key, value, gate, F.logsigmoid(forget)).transpose(1, 2)
            y = F.layer_norm(y, y.shape[-1:]).flatten(-2)
        y = y * self.head_norm + self.skip * mixed
        return self.down((y * F.silu(z)).to(z.dtype)).view(x.shape)


class XLSTMLayer(MambaLayer):
    """An mLSTM block along the time of each band, or one in each direction."""

    block = MLSTMBlock
