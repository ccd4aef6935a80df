"""What networks take from `mamba_ssm`, with this project's scan in place of the CUDA kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablate.models import selective_scan


def _scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
    if delta_bias is not None:
        delta = delta + delta_bias[..., None]
    return selective_scan(u, delta, A, B, C, D=D, z=z, delta_softplus=delta_softplus)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float = 1e-5, **_: object) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))
        self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


STAND_INS = {
    "mamba_ssm.ops.selective_scan_interface": {"selective_scan_fn": _scan, "mamba_inner_fn": None},
    "mamba_ssm.ops.triton": {},
    "mamba_ssm.ops.triton.layernorm": {"RMSNorm": RMSNorm, "layer_norm_fn": None, "rms_norm_fn": None},
    "mamba_ssm.ops.triton.layer_norm": {"RMSNorm": RMSNorm, "layer_norm_fn": None, "rms_norm_fn": None},
    "mamba_ssm.ops.triton.selective_state_update": {"selective_state_update": None},
    "mamba_ssm.utils.generation": {"GenerationMixin": type("GenerationMixin", (), {})},
    "mamba_ssm.utils.hf": {"load_config_hf": None, "load_state_dict_hf": None},
}
