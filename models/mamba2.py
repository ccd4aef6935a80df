"""Mamba-2 (Dao and Gu 2024, arXiv:2405.21060): the scan with one decay per head, as matrix products."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig, Norm
from .declarations import note, recording
from .errors import InputError, nearest_multiples
from .lookahead import ResidualBlock
from .mamba import STEP_RANGE, MambaLayer, initial_step_bias
from .norms import linear
from .scan.convolution import causal_convolution

CHUNK = 64
"""Frames per matrix product; a loop carries the states between chunks."""


def state_space_dual(x: Tensor, decay: Tensor, b: Tensor, c: Tensor, chunk: int = CHUNK) -> Tensor:
    """`y[t] = C[t] h[t]`, `h[t] = exp(decay[t]) h[t-1] + B[t] x[t]`, with `h[-1] = 0`.

    The chunked algorithm of arXiv:2405.21060, section 6. Sums over time are products with a triangular matrix
    of ones, because CUDA has no deterministic cumulative sum.

    Args:
        x: `(row, time, head, channel)`, already multiplied by the step size.
        decay: `(row, time, head)`, the logarithm of the share of a state that is kept, at most 0.
        b, c: `(row, time, state)`, shared by the heads.
        chunk: frames per chunk.

    Returns:
        `(row, time, head, channel)`.
    """
    rows, time, heads, channels = x.shape
    padding = -time % chunk
    x = F.pad(x, (0, 0, 0, 0, 0, padding)).unflatten(1, (-1, chunk))
    decay = F.pad(decay, (0, 0, 0, padding)).unflatten(1, (-1, chunk)).transpose(2, 3)
    b, c = (F.pad(part, (0, 0, 0, padding)).unflatten(1, (-1, chunk)) for part in (b, c))

    ones = torch.ones(chunk, chunk, dtype=decay.dtype, device=decay.device)
    lower = ones.tril()
    total = decay @ lower.T
    between = (total[..., :, None] - total[..., None, :]).masked_fill(lower == 0, -math.inf).exp()
    scores = (c @ b.transpose(2, 3))[:, :, None] * between
    within = scores @ x.transpose(2, 3)

    kept = (total[..., -1:] - total).exp()
    written = torch.einsum("rkhq,rkqs,rkqhc->rkhsc", kept, b, x)
    state, states = x.new_zeros(rows, heads, b.shape[-1], channels), []
    for own, last in zip(written.unbind(1), total[..., -1].exp().unbind(1), strict=True):
        states.append(state)
        state = last[..., None, None] * state + own
    before = torch.einsum("rkqs,rkhsc->rkhqc", c, torch.stack(states, 1)) * total.exp()[..., None]
    return (within + before).transpose(2, 3).flatten(1, 2)[:, :time]


class Mamba2Block(ResidualBlock):
    """`x + out(RMSNorm(SSD(in(norm(x))) * SiLU(z)))`, along the time of each band.

    Raises:
        InputError: the inner width is not a multiple of the number of heads.
    """

    def __init__(self, config: ModelConfig, norm: Norm = "layer", ahead: int = 0) -> None:
        super().__init__(config, norm, ahead)
        inner, heads, states = config.expand * config.channels, config.heads, config.d_state
        if inner % heads:
            raise InputError(
                f"{inner} inner channels cannot be divided into {heads} heads of Mamba-2; "
                + nearest_multiples(inner, heads)
            )
        self.heads, self.sizes = heads, [inner, inner, states, states, heads]
        self.in_proj = linear(config.channels, sum(self.sizes), bias=False)
        mixed = inner + 2 * states
        self.conv = nn.Conv1d(mixed, mixed, config.d_conv, groups=mixed)
        self.dt_bias = nn.Parameter(initial_step_bias(heads))
        self.A_log = nn.Parameter(torch.log(1 + 15 * torch.rand(heads)))
        self.D = nn.Parameter(torch.ones(heads))
        self.gated_norm = nn.RMSNorm(inner, eps=1e-5)
        self.out_proj = linear(inner, config.channels, bias=False)

    def init_ranges(self) -> dict[str, tuple[float, float]]:
        """The step sizes and decay rates of the reference initialisation."""
        return {"dt": STEP_RANGE, "A_log": (0.0, math.log(16))}

    def init_values(self) -> dict[str, Tensor]:
        """`dt`: the step size `(head,)` for an input of zero."""
        return {"dt": F.softplus(self.dt_bias.detach())}

    def along_time(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        z, main, b, c, step = self.in_proj(rows).split(self.sizes, dim=-1)
        assert self.conv.bias is not None
        mixed = causal_convolution(torch.cat([main, b, c], dim=-1), self.conv.weight, self.conv.bias)
        with torch.autocast(x.device.type, enabled=False):
            y = self._scan(mixed, step)
        y = self.gated_norm((y * F.silu(z)).to(z.dtype))
        return self.out_proj(y).view(x.shape)

    def _scan(self, mixed: Tensor, step: Tensor) -> Tensor:
        if mixed.dtype != torch.float64:
            mixed, step = mixed.float(), step.float()
        main, b, c = mixed.split(self.sizes[1:4], dim=-1)
        dt = F.softplus(step + self.dt_bias)
        heads = main.unflatten(-1, (self.heads, -1))
        state = state_space_dual(heads * dt[..., None], -dt * self.A_log.exp(), b, c)
        skip = self.D[:, None] * heads
        if recording(self):
            note(self, "state", state.detach())
            note(self, "skip", skip.detach())
        return (state + skip).flatten(-2)


class Mamba2Layer(MambaLayer):
    """A Mamba-2 block along the time of each band, or one in each direction."""

    block = Mamba2Block
