"""The selective scan fused for the CPU: rows in parallel, the channel innermost so that it vectorises.

Forward saves the state at the start of every chunk of time; backward recomputes a chunk from it. Only
float32. Threads follow `torch.get_num_threads()`; the threads are Python's, each in compiled code that has
let go of the interpreter's lock, so it works after a fork and beside other threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import kernels
from .clamps import Clamps
from .parallel import over_rows

CHUNK = 16
_NONE = np.zeros((0, 0, 0), np.float32)


def _bounds(clamps: Clamps | None) -> np.ndarray:
    c = clamps or Clamps()
    return np.array([*c.exponent, c.decay, *c.step, c.gain, c.state, c.output], np.float32)


def _rows(x: Tensor | None) -> np.ndarray:
    """`(batch, dim, time)` as a contiguous array `(batch, time, dim)`; copies only where it must."""
    return _NONE if x is None else x.detach().transpose(1, 2).contiguous().numpy()


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
        batch, dim, time = u.shape
        states = A.shape[1]
        arrays = [_rows(t) for t in (u, delta, B, C, z)]
        decay = A.detach().t().contiguous().numpy()
        skip = np.zeros(dim, np.float32) if D is None else D.detach().contiguous().numpy()
        y = torch.empty(batch, time, dim)
        chunks = -(-time // CHUNK)
        saved = torch.empty((batch, chunks, states, dim) if any(ctx.needs_input_grad) else (0, 0, 0, 0))
        flags = (softplus, clamps is not None, z is not None)
        bounds = _bounds(clamps)
        over_rows(
            batch,
            lambda _, start, stop: kernels.forward(
                start, stop, *arrays, decay, skip, *flags, bounds, CHUNK, y.numpy(), saved.numpy()
            ),
        )
        ctx.save_for_backward(u, delta, A, B, C, D, z, saved)
        ctx.flags, ctx.bounds = flags, bounds
        return y.transpose(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, D, z, saved = ctx.saved_tensors
        batch, dim, time = u.shape
        states = A.shape[1]
        arrays = [_rows(t) for t in (u, delta, B, C, z)]
        decay = A.detach().t().contiguous().numpy()
        skip = np.zeros(dim, np.float32) if D is None else D.detach().contiguous().numpy()
        gu, gdelta = torch.empty(batch, time, dim), torch.empty(batch, time, dim)
        gB, gC = torch.empty(batch, time, states), torch.empty(batch, time, states)
        gz = torch.empty((batch, time, dim) if z is not None else (0, 0, 0))
        blocks = torch.get_num_threads()
        gA, gD = torch.zeros(blocks, states, dim), torch.zeros(blocks, dim)
        out = [t.numpy() for t in (gu, gdelta, gB, gC, gz)]
        upstream = _rows(grad)
        over_rows(
            batch,
            lambda block, start, stop: kernels.backward(
                start,
                stop,
                *arrays,
                decay,
                skip,
                *ctx.flags,
                ctx.bounds,
                CHUNK,
                saved.numpy(),
                upstream,
                *out,
                gA.numpy()[block],
                gD.numpy()[block],
            ),
        )
        wide = [g.transpose(1, 2) for g in (gu, gdelta, gB, gC)]
        return (
            wide[0],
            wide[1],
            gA.sum(0).t(),
            wide[2],
            wide[3],
            None if D is None else gD.sum(0),
            None if z is None else gz.transpose(1, 2),
            None,
            None,
        )


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_softplus: bool,
    clamps: Clamps | None,
) -> Tensor:
    """See `models.scan.selective_scan`; float32 on the CPU.

    Raises:
        ValueError: the inputs are of another dtype or on another device.
    """
    if u.dtype != torch.float32 or u.device.type != "cpu":
        raise ValueError(
            f"the numba scan takes float32 on the CPU, got {u.dtype} on {u.device}; use backend='reference'"
        )
    return _Scan.apply(u, delta, A, B, C, D, z, delta_softplus, clamps)
