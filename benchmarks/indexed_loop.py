"""The selective scan as a loop in the way of mamba-ssm's own reference, for comparison.

The loop indexes tensors `(batch, dim, time, state)` at every step. In backward each index adds a tensor of
that whole size, so the work grows with the square of the length; `models.scan.reference` unbinds time once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from models.scan.clamps import Clamps
from models.scan.reference import finish, step_terms


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
    """See `models.scan.selective_scan`; without clamps of the state."""
    decay, gain = step_terms(F.softplus(delta) if delta_softplus else delta, A, B, clamps)
    inputs = gain * u[..., None]
    state = torch.zeros_like(inputs[:, :, 0])
    outputs = []
    for t in range(u.shape[-1]):
        state = decay[:, :, t] * state + inputs[:, :, t]
        outputs.append(torch.einsum("bdn,bn->bd", state, C[..., t]))
    return finish(torch.stack(outputs, dim=-1), u, D, z, clamps)
