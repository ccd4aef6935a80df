"""The selective scan fused for a GPU, in Triton, which every CUDA build of torch includes.

The forward pass saves the state at the start of every chunk of time; the backward pass recomputes a chunk
from it. It computes in float32 for any dtypes of the inputs, and is deterministic.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from ..errors import InputError
from . import triton_kernels as kernels
from .clamps import Clamps

CHUNK = 32
TILE = 256
"""Elements of a `[state, channel]` tile: 8 registers per thread of one warp."""
LAUNCH: dict[str, Any] = {"num_warps": 1, "num_stages": 1, "enable_fp_fusion": True}
"""All launch options are explicit, so that results do not depend on the defaults of a Triton version."""


def sizes(states: int) -> dict[str, int]:
    """The constants of the kernels for a number of states."""
    filled = triton.next_power_of_2(states)
    return {"CHUNK": CHUNK, "N": filled, "CHANNELS": max(1, min(32, TILE // filled))}


def rows(x: Tensor) -> Tensor:
    """`(batch, dim, time)` as `(batch, time, dim)`, the last axis contiguous; copied only if necessary."""
    x = x.detach().transpose(1, 2)
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


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
        if any(x is not None and x.dtype == torch.float64 for x in (u, delta, A, B, C, D, z)):
            raise InputError("the triton scan computes in float32, got float64; use backend='reference'")
        batch, dim, time = u.shape
        states = A.shape[1]
        wide = [rows(x) for x in (u, delta, B, C, u if z is None else z)]
        rate = A.detach().t().contiguous()
        skip = torch.zeros(dim, device=u.device) if D is None else D.detach().contiguous()
        keep = any(ctx.needs_input_grad)
        y = torch.empty(batch, time, dim, device=u.device, dtype=u.dtype)
        chunks = -(-time // CHUNK) if keep else 0
        saved = torch.empty(batch, chunks, states, dim, device=u.device)
        bounds = (clamps or Clamps()).bounds(kernels.LOG2E.value)
        constants = sizes(states)
        flags = {"SOFTPLUS": softplus, "CLAMPED": clamps is not None, "GATED": z is not None}
        with torch.cuda.device_of(u):
            kernels.forward[(batch, triton.cdiv(dim, constants["CHANNELS"]))](
                *wide,
                rate,
                skip,
                y,
                saved,
                *(stride for x in wide for stride in x.stride()[:2]),
                time,
                dim,
                states,
                *bounds,
                KEEP=keep,
                **flags,
                **constants,
                **LAUNCH,
            )
        ctx.save_for_backward(*wide[:4], z, rate, skip, saved)
        ctx.bounds, ctx.flags, ctx.constants = bounds, flags, constants
        ctx.dtypes = [None if x is None else x.dtype for x in (A, B, C, D)]
        return y.transpose(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, B, C, z, rate, skip, saved = ctx.saved_tensors
        batch, time, dim = u.shape
        states = rate.shape[0]
        wide = [u, delta, B, C, u if z is None else rows(z)]
        upstream = rows(grad)
        blocks = triton.cdiv(dim, ctx.constants["CHANNELS"])

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, device=u.device, dtype=dtype)

        per_program = (ctx.constants[name] for name in ("CHUNK", "N", "CHANNELS"))
        gu, gdelta = (empty(batch, time, dim, dtype=x.dtype) for x in (u, delta))
        gB, gC = (empty(blocks, batch, time, states) for _ in range(2))
        gz = None if z is None else empty(batch, time, dim, dtype=z.dtype)
        gA, gD = empty(batch, states, dim), empty(batch, dim)
        with torch.cuda.device_of(u):
            kernels.backward[(batch, blocks)](
                *wide,
                rate,
                skip,
                upstream,
                saved,
                empty(batch * blocks, *per_program),
                gu,
                gdelta,
                gB,
                gC,
                gu if gz is None else gz,
                gA,
                gD,
                *(stride for x in (*wide, upstream) for stride in x.stride()[:2]),
                time,
                dim,
                states,
                *ctx.bounds,
                **ctx.flags,
                **ctx.constants,
                **LAUNCH,
            )
        of_A, of_B, of_C, of_D = ctx.dtypes
        return (
            gu.transpose(1, 2),
            gdelta.transpose(1, 2),
            gA.sum(0).t().to(of_A),
            gB.sum(0).transpose(1, 2).to(of_B),
            gC.sum(0).transpose(1, 2).to(of_C),
            None if of_D is None else gD.sum(0).to(of_D),
            None if gz is None else gz.transpose(1, 2),
            None,
            None,
        )


scan = _Scan.apply
"""See `models.scan.selective_scan`; any floating dtypes except float64."""
