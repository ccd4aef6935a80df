"""The fused CUDA kernel of the mamba-ssm package (optional extra `cuda`)."""

from __future__ import annotations

from torch import Tensor

from .clamps import Clamps


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
    """See `models.scan.selective_scan`; float32 on a CUDA device.

    Raises:
        ValueError: clamps are asked for, which the kernel has not.
    """
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    if clamps is not None:
        raise ValueError("the mamba_ssm scan has no clamps; use backend='chunked'")
    rows = [t.contiguous() for t in (u, delta)]
    gate = None if z is None else z.contiguous()
    return selective_scan_fn(*rows, A, B.contiguous(), C.contiguous(), D, gate, None, delta_softplus)
