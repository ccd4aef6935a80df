"""The causal depthwise convolution and SiLU before the scan, in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from . import choose_backend
from .parallel import over_rows


def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `causal_convolution`."""
    taps, time = weight.shape[-1], x.shape[1]
    padded = F.pad(x.transpose(1, 2), (taps - 1, 0))
    return F.silu(F.conv1d(padded, weight, bias, groups=x.shape[-1])[..., :time]).transpose(1, 2)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        from .convolution_kernels import forward

        x, taps = x.detach().contiguous(), weight.detach()[:, 0].t().contiguous()
        y = torch.empty_like(x)
        arrays = [t.numpy() for t in (x, taps, bias.detach(), y)]
        over_rows(len(x), lambda _, start, stop: forward(start, stop, *arrays))
        ctx.save_for_backward(x, taps, bias)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        from .convolution_kernels import backward

        x, taps, bias = ctx.saved_tensors
        gx = torch.empty_like(x)
        gtaps = np.empty((len(x), *taps.shape), np.float32)
        gbias = np.empty((len(x), len(bias)), np.float32)
        arrays = [*(t.numpy() for t in (x, taps, bias.detach(), grad.contiguous(), gx)), gtaps, gbias]
        over_rows(len(x), lambda _, start, stop: backward(start, stop, *arrays))
        by_tap = torch.from_numpy(gtaps.sum(0)).t()[:, None]
        return gx, by_tap, torch.from_numpy(gbias.sum(0))


def causal_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`silu(bias + sum_k weight[k] x[t - taps + 1 + k])` for each channel; `x` is zero before the start.

    Args:
        x: `(row, time, channel)`.
        weight: `(channel, 1, tap)`.
        bias: `(channel,)`.

    Returns:
        `(row, time, channel)`.
    """
    backend = choose_backend(x.device)[0]
    if x.is_meta or x.dtype == torch.float64 or backend not in ("numba", "triton"):
        return plain(x, weight, bias)
    with torch.autocast(x.device.type, enabled=False):
        if backend == "triton":
            from .triton_convolution import Convolution

            return Convolution.apply(x, weight, bias)
        return _Fused.apply(x.float(), weight.float(), bias.float())
