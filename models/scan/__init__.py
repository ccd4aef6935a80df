"""The selective scan of Mamba-1 (Gu and Dao 2023, arXiv:2312.00752) behind one function."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from ..distribution import DISTRIBUTION
from ..errors import InputError
from ..registry import suggestion
from .clamps import Clamps

__all__ = ["BACKENDS", "Clamps", "choose_backend", "selective_scan", "unavailable", "using"]

BACKENDS: dict[str, str] = {
    "reference": "ablate.models.scan.reference",
    "numba": "ablate.models.scan.numba_backend",
    "triton": "ablate.models.scan.triton_backend",
    "mamba_ssm": "ablate.models.scan.mamba_ssm",
    "chunked": "ablate.models.scan.chunked",
}
"""Backend -> the module with its `scan`."""
FUSED = {"cpu": "numba", "cuda": "triton"}
"""Device type -> the fused backend that `auto` prefers there."""
_INSTALL = {
    "numba": "numba is not installed",
    "triton": "triton is not installed",
    "mamba_ssm": f"mamba-ssm is not installed (pip install --no-build-isolation '{DISTRIBUTION}[cuda]')",
}

_preferred: ContextVar[str] = ContextVar("scan_backend", default="auto")


@contextmanager
def using(backend: str) -> Iterator[None]:
    """Make `backend="auto"` select this backend inside the block.

    Raises:
        InputError: the backend is unknown.
    """
    _check(backend)
    token = _preferred.set(backend)
    try:
        yield
    finally:
        _preferred.reset(token)


def _check(backend: str) -> None:
    known = ["auto", *BACKENDS]
    if backend not in known:
        raise InputError(f"unknown scan backend {backend!r}{suggestion(backend, known)}")


@cache
def unavailable(backend: str, device: str | None = None) -> str | None:
    """Why a backend cannot run here, or on a type of device (`cpu`, `cuda`); None if it can.

    A GPU backend is tested with a tiny scan, because an installed package may still fail.
    """
    _check(backend)
    home = _home(backend)
    if home is None:
        return None
    if device not in (None, home):
        return f"runs on {home} only"
    if home == "cuda" and not torch.cuda.is_available():
        return "no CUDA device"
    if find_spec(backend) is None:
        return _INSTALL[backend]
    return failure(backend, home) if home == "cuda" else None


def _home(backend: str) -> str | None:
    """The only device type that a backend runs on; None if it runs on any."""
    if backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        return "cpu"
    return {"numba": "cpu", "triton": "cuda", "mamba_ssm": "cuda"}.get(backend)


def failure(backend: str, device: str) -> str | None:
    """The one-line error of a backend on a scan of one step and its gradient; None if it works.

    Raises:
        torch.OutOfMemoryError: the device is full, so the test says nothing about the backend.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.ones(1, 1, 1, device=device, requires_grad=True)
            y = _scan_of(backend)(x, x, -x[0], x, x, None, None, True, None)
            torch.autograd.grad(y.sum(), x)[0].item()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None


def _scan_of(backend: str) -> Callable[..., Tensor]:
    return import_module(BACKENDS[backend]).scan


def choose_backend(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[str, str]:
    """The backend that `auto` selects for inputs on this device and of this dtype, and the reason."""
    device = torch.device(device)
    if _preferred.get() != "auto":
        return _preferred.get(), "asked for"
    if dtype == torch.float64:
        return "reference", "double precision"
    if device.type not in FUSED:
        return "chunked", f"no fused kernel for {device.type}"
    fused = FUSED[device.type]
    reason = unavailable(fused, device.type)
    return ("chunked", f"{fused}: {reason}") if reason else (fused, f"fused for {device.type}")


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_softplus: bool = False,
    clamps: Clamps | bool | None = None,
    backend: str = "auto",
) -> Tensor:
    """`h[t] = exp(delta A) h[t-1] + delta B u`, `y = sum_n h C + D u`, then `y * SiLU(z)`.

    It computes in float64 if an input is float64, else in float32, also under autocast.

    Args:
        u: input `(batch, dim, time)`.
        delta: step size `(batch, dim, time)`; with `delta_softplus`, softplus is applied to it first.
        A: `(dim, state)`.
        B: `(batch, state, time)`.
        C: `(batch, state, time)`.
        D: skip `(dim,)`; default: no skip.
        z: gate `(batch, dim, time)`; default: no gate.
        delta_softplus: whether to apply softplus to `delta`.
        clamps: bounds inside the scan; True for those of MBS-Net's code; default: no bounds.
        backend: `auto` or a key of `BACKENDS`.

    Returns:
        `(batch, dim, time)` in the dtype of `u`.

    Raises:
        ValueError: the shapes are inconsistent.
        InputError: the backend is unknown or does not support these inputs.
    """
    if u.ndim != 3:
        raise ValueError(f"u has shape {tuple(u.shape)}; expected the axes (batch, dim, time)")
    if isinstance(clamps, bool):
        clamps = Clamps() if clamps else None
    if clamps is not None and not isinstance(clamps, Clamps):
        raise ValueError(f"clamps is {clamps!r}; use Clamps(...), true or none")
    batch, dim, time = u.shape
    states = A.shape[-1]
    expected: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("delta", delta, (batch, dim, time)),
        ("A", A, (dim, states)),
        ("B", B, (batch, states, time)),
        ("C", C, (batch, states, time)),
        ("D", D, (dim,)),
        ("z", z, (batch, dim, time)),
    ]
    for name, tensor, shape in expected:
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; u {tuple(u.shape)} needs {shape}")
    if not time:
        raise ValueError("the scan needs at least one time step, got 0")
    if u.is_meta:
        return torch.empty_like(u)
    present = [t for t in (u, *(tensor for _, tensor, _ in expected)) if t is not None]
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in present) else torch.float32
    _check(backend)
    if backend == "auto":
        backend, _ = choose_backend(u.device, dtype)
    reason = unavailable(backend, u.device.type)
    if reason is not None:
        raise InputError(f"scan backend {backend!r} cannot run here: {reason}")
    given: tuple[Tensor | None, ...] = (u, delta, A, B, C, D, z)
    if backend != "triton":  # which reads any dtype
        given = tuple(None if t is None else t.to(dtype) for t in given)
    if not torch.is_grad_enabled():  # parameters would have a fused backend save states for a gradient
        given = tuple(None if t is None else t.detach() for t in given)
    with torch.autocast(u.device.type, enabled=False):
        return _scan_of(backend)(*given, delta_softplus, clamps).to(u.dtype)
