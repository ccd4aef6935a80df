"""The causal depthwise convolution with SiLU in Triton. Arrays are `(row, time, channel)`, tiles `[T, D]`.

There is one program for each (row, block of channels, block of time). Its gradients of taps and bias are sums
over its frames, which the caller adds up in a fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_backend import rows
from .triton_kernels import load, sigmoid

FRAMES, CHANNELS = 16, 64
LAUNCH: dict[str, Any] = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}


@triton.jit
def _convolve(x, taps, bias, t, d, x_time, time, dim, TAPS: tl.constexpr):
    """The convolution before SiLU, `[T, D]`; zero after the end."""
    in_d = d < dim
    out = tl.zeros([t.shape[0], d.shape[0]], tl.float32) + load(bias + d, in_d)[None, :]
    for k in tl.static_range(TAPS):
        s = t - TAPS + 1 + k
        frames = ((s >= 0) & (s < time))[:, None] & in_d[None, :]
        tap = load(taps + d * TAPS + k, in_d)
        out += tap[None, :] * load(x + s[:, None] * x_time + d[None, :], frames)
    return out


@triton.jit(do_not_specialize=["time"])
def forward(
    x,
    taps,
    bias,
    y,
    x_row,
    x_time,
    time,
    dim,
    TAPS: tl.constexpr,
    FRAMES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    t = tl.program_id(2) * FRAMES + tl.arange(0, FRAMES)
    p = _convolve(x + row * x_row, taps, bias, t, d, x_time, time, dim, TAPS)
    inside = (t < time)[:, None] & (d < dim)[None, :]
    tl.store(y + row * time * dim + t[:, None] * dim + d[None, :], p * sigmoid(p), mask=inside)


@triton.jit(do_not_specialize=["time"])
def backward(
    x,
    taps,
    bias,
    grad,
    gx,
    gtaps,
    gbias,
    x_row,
    x_time,
    grad_row,
    grad_time,
    time,
    dim,
    TAPS: tl.constexpr,
    FRAMES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Gradients; those of the taps are `(row, block of time, tap, channel)`, of the bias without `tap`."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    t = tl.program_id(2) * FRAMES + tl.arange(0, FRAMES)
    part = row * tl.num_programs(2) + tl.program_id(2)
    in_d = d < dim
    x += row * x_row
    grad += row * grad_row
    sum_x = tl.zeros([FRAMES, CHANNELS], tl.float32)
    for ahead in tl.static_range(TAPS):
        s = t + ahead
        inside = (s < time)[:, None] & in_d[None, :]
        p = _convolve(x, taps, bias, s, d, x_time, time, dim, TAPS)
        gate = sigmoid(p)
        g = load(grad + s[:, None] * grad_time + d[None, :], inside) * gate * (1.0 + p * (1.0 - gate))
        sum_x += load(taps + d * TAPS + (TAPS - 1 - ahead), in_d)[None, :] * g
        if ahead == 0:
            tl.store(gbias + part * dim + d, tl.sum(g, axis=0), mask=in_d)
            for k in tl.static_range(TAPS):
                r = t - TAPS + 1 + k
                frames = ((r >= 0) & (r < time))[:, None] & in_d[None, :]
                products = g * load(x + r[:, None] * x_time + d[None, :], frames)
                tl.store(gtaps + (part * TAPS + k) * dim + d, tl.sum(products, axis=0), mask=in_d)
    inside = (t < time)[:, None] & in_d[None, :]
    tl.store(gx + row * time * dim + t[:, None] * dim + d[None, :], sum_x, mask=inside)


class Convolution(torch.autograd.Function):
    """See `causal_convolution`; inputs of any floating dtypes except float64, output float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x, weight, bias = rows(x.transpose(1, 2)), weight.detach().contiguous(), bias.detach().contiguous()
        batch, time, dim = x.shape
        y = torch.empty(x.shape, device=x.device)
        constants = {"TAPS": weight.shape[-1], "FRAMES": FRAMES, "CHANNELS": CHANNELS}
        grid = (batch, triton.cdiv(dim, CHANNELS), triton.cdiv(time, FRAMES))
        with torch.cuda.device_of(x):
            forward[grid](x, weight, bias, y, *x.stride()[:2], time, dim, **constants, **LAUNCH)
        ctx.save_for_backward(x, weight, bias)
        ctx.constants, ctx.grid = constants, grid
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias = ctx.saved_tensors
        batch, time, dim = x.shape
        taps, parts = ctx.constants["TAPS"], ctx.grid[2]
        grad = rows(grad.transpose(1, 2))
        gx = torch.empty(x.shape, device=x.device, dtype=x.dtype)
        gtaps = torch.empty(batch * parts, taps, dim, device=x.device)
        gbias = torch.empty(batch * parts, dim, device=x.device)
        strides = (*x.stride()[:2], *grad.stride()[:2])
        with torch.cuda.device_of(x):
            backward[ctx.grid](
                x, weight, bias, grad, gx, gtaps, gbias, *strides, time, dim, **ctx.constants, **LAUNCH
            )
        by_tap = gtaps.sum(0).t()[:, None]
        return gx, by_tap.to(weight.dtype), gbias.sum(0).to(bias.dtype)
