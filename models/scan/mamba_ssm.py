"""The fused CUDA kernel of the mamba-ssm package (optional extra `cuda`)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from torch import Tensor

from ..errors import InputError
from .clamps import Clamps


@cache
def _operation() -> Callable[..., Tensor]:
    """The package's `selective_scan_fn`, loaded from its module alone: the package imports transformers."""
    name, module = "mamba_ssm", "mamba_ssm.ops.selective_scan_interface"
    spec = None if name in sys.modules else find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        return import_module(module).selective_scan_fn
    package = ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = package
    try:
        return import_module(module).selective_scan_fn
    finally:
        del sys.modules[name]


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
        InputError: clamps are given, which the kernel does not support.
    """
    if clamps is not None:
        raise InputError("the mamba_ssm scan has no clamps; use backend='triton'")
    rows = [t.contiguous() for t in (u, delta)]
    gate = None if z is None else z.contiguous()
    return _operation()(*rows, A, B.contiguous(), C.contiguous(), D, gate, None, delta_softplus)
