"""The selective scan in PyTorch, chunk by chunk with checkpointing, for devices without Triton.

Within a chunk, the recurrence is solved by doubling (Hillis and Steele 1986) in log2(chunk) steps, or by a
loop if there are clamps, which are not associative. The backward pass recomputes one chunk at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .clamps import Clamps
from .reference import over_time, skip_and_gate, step_terms

CHUNK = 32


def _chunk(
    state: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, clamps: Clamps | None
) -> tuple[Tensor, Tensor]:
    """State `(batch, dim, state)` before a chunk -> output `(batch, dim, time)` and the state after it."""
    decay, gain = step_terms(delta, A, B, clamps)
    inputs = gain * u[..., None]
    if clamps is not None:
        states = []
        for decay_now, input_now in zip(over_time(decay), over_time(inputs), strict=True):
            state = (decay_now * state + input_now).clamp(-clamps.state, clamps.state)
            states.append(state)
        history = torch.stack(states, dim=2)
    else:
        history = torch.cat([inputs[:, :, :1] + decay[:, :, :1] * state[:, :, None], inputs[:, :, 1:]], dim=2)
        shift = 1
        while shift < u.shape[-1]:
            later = history[:, :, shift:] + decay[:, :, shift:] * history[:, :, :-shift]
            history = torch.cat([history[:, :, :shift], later], dim=2)
            decay = torch.cat([decay[:, :, :shift], decay[:, :, shift:] * decay[:, :, :-shift]], dim=2)
            shift *= 2
    return torch.einsum("bdln,bnl->bdl", history, C), history[:, :, -1]


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
    """See `models.scan.selective_scan`; all arguments have the same floating dtype."""
    if delta_softplus:
        delta = F.softplus(delta)
    state = u.new_zeros(u.shape[0], u.shape[1], A.shape[1])
    outputs = []
    for start in range(0, u.shape[-1], CHUNK):
        piece = slice(start, start + CHUNK)
        y, state = checkpoint(
            _chunk,
            state,
            u[..., piece],
            delta[..., piece],
            A,
            B[..., piece],
            C[..., piece],
            clamps,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        outputs.append(y)
    return skip_and_gate(torch.cat(outputs, dim=-1), u, D, z, clamps)
