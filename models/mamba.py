"""Mamba (Gu and Dao 2023, arXiv:2312.00752) as a time layer, optionally with the faults of MBS-Net's code."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig, Norm
from .declarations import Declared, note, recording, share
from .lookahead import ResidualBlock
from .norms import linear, make_norm
from .scan import Clamps, selective_scan
from .scan.convolution import causal_convolution

STEP_RANGE = (0.001, 0.1)
"""Range of Mamba's initial step sizes dt, drawn log-uniformly."""


def initial_step_bias(count: int) -> Tensor:
    """Biases `(count,)` whose softplus is log-uniform in `STEP_RANGE`."""
    low, high = map(math.log, STEP_RANGE)
    dt = torch.exp(torch.rand(count) * (high - low) + low).clamp(*STEP_RANGE)
    return dt + torch.log(-torch.expm1(-dt))


def has_scan(model: nn.Module) -> bool:
    """Whether a network computes a selective scan."""
    return any(isinstance(module, SelectiveSSM) for module in model.modules())


class SelectiveSSM(nn.Module, Declared):
    """The middle of a Mamba block: causal convolution, SiLU, selective scan, gate.

    With `ssm_skip="shadowed"` the scan's skip is `inner * x` and the learned `D` has no effect;
    `dt_init="wiped"` starts from `dt_proj.bias = 0`, a step size near 0.69; `clamps="on"` bounds the scan as
    in MBS-Net's code.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner = config.expand * config.channels
        self.inner, self.states, self.rank = inner, config.d_state, math.ceil(inner / 16)
        self.shadowed = config.ssm_skip == "shadowed"
        self.clamps = Clamps() if config.clamps == "on" else None
        self.conv = nn.Conv1d(inner, inner, config.d_conv, groups=inner)
        self.x_proj = nn.Linear(inner, self.rank + 2 * self.states, bias=False)
        for part in self.x_proj.weight.split([self.rank, self.states, self.states]):
            nn.init.xavier_uniform_(part)
        self.dt_proj = linear(self.rank, inner)
        if config.dt_init == "kept":
            with torch.no_grad():
                self.dt_proj.bias.copy_(initial_step_bias(inner))
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, self.states + 1)).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.hidden_width = inner

    def init_ranges(self) -> dict[str, tuple[float, float]]:
        """The range of Mamba's own initial step sizes, whatever `dt_init` is."""
        return {"dt": STEP_RANGE}

    def init_values(self) -> dict[str, Tensor]:
        """`dt`: the step size `(inner channel,)` for an input of zero."""
        return {"dt": F.softplus(self.dt_proj.bias.detach())}

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Input and gate `(row, time, inner channel)` -> same shape."""
        assert self.conv.bias is not None
        x = causal_convolution(x, self.conv.weight, self.conv.bias)
        step, b, c = self.x_proj(x).split([self.rank, self.states, self.states], dim=-1)
        delta = self.dt_proj(step)
        a = -torch.exp(self.A_log.float() if self.A_log.dtype != torch.float64 else self.A_log)
        skip = torch.full_like(self.D, self.inner, requires_grad=False) if self.shadowed else self.D
        if recording(self):
            self._note(x, delta, a, b, c, skip)
        y = selective_scan(
            x.transpose(1, 2),
            delta.transpose(1, 2),
            a,
            b.transpose(1, 2),
            c.transpose(1, 2),
            skip,
            z.transpose(1, 2),
            delta_softplus=True,
            clamps=self.clamps,
        )
        return y.transpose(1, 2)

    @torch.no_grad()
    def _note(self, x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor) -> None:
        """Note the two terms of the scan's output, and the share of values at each clamp."""
        b, c, u = b.transpose(1, 2), c.transpose(1, 2), x.transpose(1, 2)
        clamps = self.clamps and self.clamps._replace(output=math.inf)
        raw = delta.transpose(1, 2)
        state = selective_scan(u, raw, a, b, c, delta_softplus=True, clamps=clamps).transpose(1, 2)
        note(self, "state", state)
        note(self, "skip", skip * x)
        if self.clamps is None:
            return
        bounds, dt = self.clamps, F.softplus(delta.float())
        exponent = dt[..., None] * a
        low, high = bounds.exponent
        note(self, "clamp_exponent", share(exponent, low=low))
        note(self, "clamp_decay", share(exponent.clamp(low, high).exp(), high=bounds.decay))
        note(self, "clamp_step", share(dt, high=bounds.step[1]))
        gain = dt.clamp(*bounds.step)[..., None] * b.transpose(1, 2)[:, :, None].float()
        note(self, "clamp_gain", share(gain, low=-bounds.gain, high=bounds.gain))
        note(self, "clamp_output", share(state + skip * x, low=-bounds.output, high=bounds.output))


class MambaBlock(ResidualBlock):
    """`x + out(SSM(in(norm(x))))`, along time or bands."""

    def __init__(self, config: ModelConfig, norm: Norm = "layer", ahead: int = 0) -> None:
        super().__init__(config, norm, ahead)
        inner = config.expand * config.channels
        self.in_proj = linear(config.channels, 2 * inner, bias=False)
        self.ssm = SelectiveSSM(config)
        self.out_proj = linear(inner, config.channels, bias=False)

    def along_time(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        main, gate = (F.linear(rows, half) for half in self.in_proj.weight.chunk(2))
        return self.out_proj(self.ssm(main, gate)).view(x.shape)


class BiMamba(nn.Module):
    """`x + Linear([forward(h), backward(h)])`, `h = norm(x)`: a block in each direction, each residual."""

    def __init__(
        self, config: ModelConfig, norm: Norm, block: Callable[[ModelConfig, Norm], nn.Module] = MambaBlock
    ) -> None:
        super().__init__()
        self.norm = make_norm(norm, config.channels, config.trunk_statistics)
        self.ahead = block(config, norm)
        self.back = block(config, norm)
        self.linear = linear(2 * config.channels, config.channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, same shape; the third axis is the one scanned."""
        h = self.norm(x)
        return x + self.linear(both_ways(self.ahead, self.back, h))


def both_ways(ahead: nn.Module, back: nn.Module, x: Tensor) -> Tensor:
    """Concatenated outputs of a forward and a backward layer for `(batch, row, step, channel)`."""
    return torch.cat([ahead(x), back(x.flip(2)).flip(2)], dim=-1)


class MambaLayer(nn.Module, Declared):
    """The time layer of MBS-Net: a Mamba block along the time of each band, or one in each direction."""

    block: type[nn.Module] = MambaBlock
    reach = math.inf

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        both = config.direction == "bi"
        self.mamba = (
            BiMamba(config, config.norm, self.block)
            if both
            else self.block(config, config.norm, config.lookahead)
        )
        self.looks_ahead = both or config.lookahead
        self.hidden_width = config.expand * config.channels

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, same shape."""
        return self.mamba(x)
