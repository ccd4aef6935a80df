"""The selective scan fused for the CPU: rows in parallel, channels innermost so that they vectorise.

The forward pass saves the state at the start of every chunk of time; the backward pass recomputes a chunk
from it. Only float32. It uses `torch.get_num_threads()` Python threads, whose compiled code releases the
interpreter lock, so it works after a fork and beside other threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from . import kernels
from .clamps import Clamps
from .parallel import over_rows

CHUNK = 16
_NONE = np.zeros((0, 0, 0), np.float32)


def _rows(x: Tensor | None) -> np.ndarray:
    """`(batch, dim, time)` as a contiguous array `(batch, time, dim)`, copied only if necessary."""
    return _NONE if x is None else x.detach().transpose(1, 2).contiguous().numpy()


def _even(x: Tensor, axis: int) -> Tensor:
    """`x` with a zero added to its axis of states (-1 or -2) if their number is odd."""
    return F.pad(x.detach(), (0, 1) if axis == -1 else (0, 0, 0, 1)) if x.shape[axis] % 2 else x


def _arrays(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None
) -> tuple[np.ndarray, ...]:
    """The inputs as the kernels expect them."""
    decay = _even(A.detach() * float(kernels.LOG2E), -1).t().contiguous().numpy()
    skip = np.zeros(len(A), np.float32) if D is None else D.detach().contiguous().numpy()
    return (_rows(u), _rows(delta), _rows(_even(B, -2)), _rows(_even(C, -2)), _rows(z), decay, skip)


def _scratch(*shapes: int | tuple[int, ...]) -> list[np.ndarray]:
    return [np.empty(shape, np.float32) for shape in shapes]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        softplus: bool,
        clamps: Clamps | None,
    ) -> Tensor:
        if u.dtype != torch.float32 or u.device.type != "cpu":
            raise InputError(
                f"the numba scan takes float32 on the CPU, got {u.dtype} on {u.device}; "
                "use backend='reference'"
            )
        batch, dim, time = u.shape
        arrays = _arrays(u, delta, A, B, C, D, z)
        states = arrays[5].shape[0]
        y = torch.empty(batch, time, dim)
        chunks = -(-time // CHUNK)
        saved = torch.empty((batch, chunks, states, dim) if any(ctx.needs_input_grad) else (0, 0, 0, 0))
        flags = (softplus, clamps is not None, z is not None)
        bounds = np.array((clamps or Clamps()).bounds(kernels.LOG2E), np.float32)
        out = [y.numpy(), saved.numpy()]

        def rows(_: int, start: int, stop: int) -> None:
            scratch = _scratch((states, dim), dim, dim, dim)
            kernels.forward(start, stop, *arrays, *flags, bounds, CHUNK, *scratch, *out)

        over_rows(batch, rows)
        ctx.save_for_backward(u, delta, A, B, C, D, z, saved)
        ctx.flags, ctx.bounds = flags, bounds
        return y.transpose(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, D, z, saved = ctx.saved_tensors
        batch, dim, time = u.shape
        arrays = _arrays(u, delta, A, B, C, D, z)
        states = arrays[5].shape[0]
        gu, gdelta = torch.empty(batch, time, dim), torch.empty(batch, time, dim)
        gB, gC = torch.empty(batch, time, states), torch.empty(batch, time, states)
        gz = torch.empty((batch, time, dim) if z is not None else (0, 0, 0))
        gA, gD = np.empty((batch, states, dim), np.float32), np.empty((batch, dim), np.float32)
        out = [*(t.numpy() for t in (gu, gdelta, gB, gC, gz)), gA, gD]
        upstream = _rows(grad)

        def rows(_: int, start: int, stop: int) -> None:
            chunk = (CHUNK, states, dim)
            scratch = _scratch(
                (CHUNK + 1, states, dim), chunk, (CHUNK, dim), (CHUNK, dim), (states, dim), dim, dim, dim, dim
            )
            given = (*arrays, *ctx.flags, ctx.bounds, CHUNK, saved.numpy(), upstream)
            kernels.backward(start, stop, *given, *scratch, *out)

        over_rows(batch, rows)
        wanted = A.shape[1]
        wide = [g.transpose(1, 2) for g in (gu, gdelta, gB[..., :wanted], gC[..., :wanted])]
        return (
            wide[0],
            wide[1],
            torch.from_numpy(gA.sum(0)[:wanted]).t(),
            wide[2],
            wide[3],
            None if D is None else torch.from_numpy(gD.sum(0)),
            None if z is None else gz.transpose(1, 2),
            None,
            None,
        )


scan = _Scan.apply
"""See `models.scan.selective_scan`; float32 on the CPU."""
