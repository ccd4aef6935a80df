"""True bfloat16 in every operator: torch's own autocast runs cuDNN's RNNs in float16."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class _Flattened(torch.autograd.Function):
    """A buffer of weights in cuDNN's layout and a given type, and the weights as parts of it."""

    @staticmethod
    def forward(ctx: Any, kind: torch.dtype, layout: tuple[Any, ...], *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.kinds = [weight.dtype for weight in weights]
        parts = _cast(weights, [kind] * len(weights))
        buffer = torch._cudnn_rnn_flatten_weight(parts, *layout)
        ctx.mark_non_differentiable(buffer)
        return buffer, *parts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, _: Tensor, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *_cast(gradients, ctx.kinds)


def _cast(tensors: Sequence[Tensor], kinds: Sequence[torch.dtype]) -> list[Tensor]:
    """Copies of tensors in other types, in one launch."""
    copies = [torch.empty_like(tensor, dtype=kind) for tensor, kind in zip(tensors, kinds, strict=True)]
    torch._foreach_copy_(copies, list(tensors))
    return copies


def _recurrence(
    x: Tensor,
    weights: list[Tensor],
    stride: int,
    _: Tensor | None,
    h: Tensor,
    c: Tensor | None,
    mode: int,
    hidden: int,
    projected: int,
    layers: int,
    batch_first: bool,
    dropout: float,
    train: bool,
    both: bool,
    *rest: Any,
) -> Any:
    """`aten::_cudnn_rnn` in autocast's type."""
    kind = torch.get_autocast_dtype("cuda")
    layout = stride, x.shape[-1], mode, hidden, projected, layers, batch_first, both
    with torch.autocast("cuda", enabled=False):
        buffer, *parts = _Flattened.apply(kind, layout, *weights)
        states = h.to(kind), None if c is None else c.to(kind)
        sizes = hidden, projected, layers, batch_first, dropout, train, both
        return torch.ops.aten._cudnn_rnn(x.to(kind), parts, stride, buffer, *states, mode, *sizes, *rest)


@contextmanager
def cudnn_recurrences() -> Iterator[None]:
    """LSTM and GRU layers inside, also a plug-in's, compute in autocast's type on CUDA.

    torch (2.14, `AutocastRNN.cpp`) always uses float16: without a scaled loss most gradients of a recurrence
    are then subnormal, and some become zero.
    """
    library = torch.library.Library("aten", "IMPL")
    library.impl("_cudnn_rnn", _recurrence, "AutocastCUDA", allow_override=True)
    try:
        yield
    finally:
        library._destroy()
