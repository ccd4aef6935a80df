"""Normalisation of features `(batch, band, time, channel)`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import Norm, Statistics

EPSILON = 1e-5


def cumulative_sum(x: Tensor, chunk: int = 64) -> Tensor:
    """Cumulative sums over the last axis, same shape.

    Computed as products with a triangular matrix of ones, in chunks, because `torch.cumsum` is not
    deterministic on CUDA.
    """
    length = x.shape[-1]
    parts = F.pad(x, (0, -length % chunk)).unflatten(-1, (-1, chunk))
    upper = torch.ones(chunk, chunk, dtype=x.dtype, device=x.device).triu()
    sums = parts @ upper
    if parts.shape[-2] > 1:
        sums[..., 1:, :] = sums[..., 1:, :] + cumulative_sum(sums[..., :-1, -1], chunk)[..., None]
    return sums.flatten(-2)[..., :length]


def _statistics_so_far(x: Tensor, dims: Sequence[int], time: int) -> tuple[Tensor, Tensor]:
    count = math.prod(x.shape[dim] for dim in dims)
    counts = count * torch.arange(1, x.shape[time] + 1, device=x.device, dtype=torch.float64)

    def mean_so_far(values: Tensor) -> Tensor:
        sums = values.sum(tuple(dims), keepdim=True, dtype=torch.float64).movedim(time, -1)
        return (cumulative_sum(sums) / counts).movedim(-1, time)

    mean = mean_so_far(x)
    variance = (mean_so_far(x.square()) - mean.square()).clamp(min=0)
    return mean.to(x.dtype), torch.rsqrt(variance + EPSILON).to(x.dtype)


@torch.library.custom_op("ablate::statistics_so_far", mutates_args=())
def statistics_so_far(x: Tensor, dims: Sequence[int], time: int) -> tuple[Tensor, Tensor]:
    """Mean and inverse standard deviation over the frames up to and including each frame.

    It is a single operator, so that code that traces a forward pass can recognise normalisation statistics.

    Args:
        x: any shape.
        dims: the axes, besides time, to reduce; they have length 1 in the result.
        time: the axis of frames.
    """
    return _statistics_so_far(x, dims, time)


@statistics_so_far.register_fake
def _(x: Tensor, dims: Sequence[int], time: int) -> tuple[Tensor, Tensor]:
    shape = [1 if dim in dims else size for dim, size in enumerate(x.shape)]
    return x.new_empty(shape), x.new_empty(shape)


def _keep(ctx: Any, inputs: tuple[Tensor, Sequence[int], int], output: Any) -> None:
    x, ctx.dims, ctx.time = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
    with torch.enable_grad():
        x = ctx.saved_tensors[0].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(_statistics_so_far(x, ctx.dims, ctx.time), x, gradients)
    return gradient, None, None


statistics_so_far.register_autograd(_backward, setup_context=_keep)


def standardise_so_far(x: Tensor, dims: Sequence[int], time: int) -> Tensor:
    """Standardise `x` with mean and standard deviation over the frames up to and including each frame.

    In at least single precision; see `statistics_so_far` for the arguments.
    """
    x = x if x.dtype == torch.float64 else x.float()
    mean, scale = statistics_so_far(x, dims, time)
    return (x - mean) * scale


def standardise(x: Tensor) -> Tensor:
    """Standardise each item of `x` over all axes but the first.

    On CUDA, it takes two passes that each use the whole device; torch's kernel uses one block per item.
    """
    if not x.is_cuda:
        return F.layer_norm(x, x.shape[1:], eps=EPSILON)
    return two_passes(x)


def two_passes(x: Tensor) -> Tensor:
    """`standardise` for CUDA, in at least single precision."""
    x = x if x.dtype == torch.float64 else x.float()
    variance, mean = torch.var_mean(x, tuple(range(1, x.dim())), correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + EPSILON)


class GlobalNorm(nn.Module):
    """GroupNorm(1, channels): statistics over all axes but the batch, and an affine map per channel.

    Args:
        channels: number of features.
        statistics: over the whole utterance, or over the frames so far (`cumulative`), which is causal.
    """

    def __init__(self, channels: int, statistics: Statistics = "utterance") -> None:
        super().__init__()
        self.statistics = statistics
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, same shape."""
        if self.statistics == "cumulative":
            normed = standardise_so_far(x, [1, 3], time=2)
        else:
            normed = standardise(x)
        return torch.addcmul(self.bias, normed, self.weight)

    def extra_repr(self) -> str:
        return f"channels={len(self.weight)}, statistics={self.statistics}"


class BatchNorm(nn.BatchNorm1d):
    """Statistics of each channel over batch, band and time; in evaluation running ones, which are causal."""

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, band, time, channel)`, same shape."""
        return super().forward(x.reshape(-1, x.shape[-1])).view(x.shape)


def make_norm(kind: Norm, channels: int, statistics: Statistics) -> nn.Module:
    """The normalisation for a `ModelConfig.norm`; `statistics` only applies to group norms."""
    if kind == "batch":
        return BatchNorm(channels)
    return GlobalNorm(channels, statistics) if kind == "group" else nn.LayerNorm(channels)


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear layer with this family's initialisation: Xavier uniform weights, zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
