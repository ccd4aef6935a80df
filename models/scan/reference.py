"""The selective scan as a plain loop over time: the reference for the other backends."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .clamps import Clamps


def step_terms(delta: Tensor, A: Tensor, B: Tensor, clamps: Clamps | None) -> tuple[Tensor, Tensor]:
    """Decay `exp(delta*A)` and gain `delta*B`, each `(batch, dim, time, state)`."""
    exponent = torch.einsum("bdl,dn->bdln", delta, A)
    if clamps is None:
        return exponent.exp(), torch.einsum("bdl,bnl->bdln", delta, B)
    decay = exponent.clamp(*clamps.exponent).exp().clamp(max=clamps.decay)
    gain = torch.einsum("bdl,bnl->bdln", delta.clamp(*clamps.step), B)
    return decay, gain.clamp(-clamps.gain, clamps.gain)


def over_time(x: Tensor) -> Sequence[Tensor]:
    """The steps along the third axis, time.

    They are unbound once: the gradient of an indexing operation has the full size, so the backward pass of
    indexing at each step would take quadratic time.
    """
    return x.unbind(2)


def skip_and_gate(y: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None, clamps: Clamps | None) -> Tensor:
    """Apply skip, output clamp and gate, all `(batch, dim, time)`."""
    if D is not None:
        y = y + D[:, None] * u
    if clamps is not None:
        y = y.clamp(-clamps.output, clamps.output)
    return y if z is None else y * F.silu(z)


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
    decay, gain = step_terms(delta, A, B, clamps)
    inputs = gain * u[..., None]
    state = torch.zeros_like(inputs[:, :, 0])
    outputs = []
    for decay_now, input_now, c in zip(over_time(decay), over_time(inputs), over_time(C), strict=True):
        state = decay_now * state + input_now
        if clamps is not None:
            state = state.clamp(-clamps.state, clamps.state)
        outputs.append(torch.einsum("bdn,bn->bd", state, c))
    return skip_and_gate(torch.stack(outputs, dim=-1), u, D, z, clamps)
