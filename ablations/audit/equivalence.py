"""Whether two networks are equivalent: at initialisation, and with equal weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ablate.models.interface import Interface

from . import probes
from .network_under_test import Subject
from .probe_inputs import isolated
from .settled import opened


def same_draw(a: Tensor, b: Tensor) -> bool:
    """Whether two initial values are equal, or drawn from one distribution."""
    if torch.equal(a, b):
        return True
    n = a.numel()
    a, b = a.detach(), b.detach()
    spread = max(float(a.std()), float(b.std())) if n > 1 else 0.0
    if n < 8 or spread == 0 or not (a != b).any():
        return False
    close = abs(float(a.mean() - b.mean())) < 6 * spread * (2 / n) ** 0.5
    ends = abs(float(a.abs().max()) / max(float(b.abs().max()), 1e-30) - 1) < 0.5
    return close and ends and abs(float(a.std() / b.std()) - 1) < 6 / n**0.5


def same_function(one: nn.Module, two: nn.Module, shared: list[str], audited: Subject) -> bool:
    """Whether two networks agree with equal weights: as drawn, and with weights so large that clamps act."""
    ours, theirs = dict(one.named_parameters()), dict(two.named_parameters())
    for scale, noise in ((1.0, 0.0), (1.0, 0.3), (4.0, 0.3), (7.5, 1.0)):
        with isolated(5), torch.no_grad():
            for model in (one, two):
                for name, parameter in model.named_parameters():
                    if name in shared and model is two:
                        continue
                    parameter.mul_(scale)
                    spread = noise * max(float(parameter.abs().mean()), 0.1)
                    parameter.add_(spread * torch.randn_like(parameter))
            for name in shared:
                theirs[name].copy_(ours[name])
        if not _agree(one, two, shared, audited.probe):
            return False
    return True


def _agree(one: nn.Module, two: nn.Module, shared: list[str], batch: Tensor) -> bool:
    """Whether outputs and gradients of two networks are equal, in training mode with equal random numbers."""
    results = []
    for model in (one, two):
        model.train()
        with isolated(6):
            out = Interface.of(model)(model, batch)
        parameters = dict(model.named_parameters())
        wanted = [parameters[n] for n in shared if parameters[n].requires_grad]
        size = torch.view_as_real(out).abs().mean() if out.is_complex() else out.abs().mean()
        grads = torch.autograd.grad(size, wanted, allow_unused=True) if size.requires_grad and wanted else ()
        results.append((out.detach(), [g is not None and g.detach() for g in grads]))
    (a, first), (b, second) = results
    if not _close(a, b):
        return False
    return all(
        (isinstance(x, Tensor) and isinstance(y, Tensor) and _close(x, y, 1e-3))
        or (x is False and y is False)
        for x, y in zip(first, second, strict=True)
    )


def _close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    if a.shape != b.shape:
        return False
    finite = torch.isfinite(torch.view_as_real(a) if a.is_complex() else a)
    if not finite.all():
        return bool((a.isnan() == b.isnan()).all())
    return float((a - b).abs().max()) <= tolerance * max(float(a.abs().max()), 1e-12)


def same_part(x: nn.Module, y: nn.Module, call: probes.Call) -> bool:
    x, y = opened(copy.deepcopy(x)).eval(), copy.deepcopy(y).eval()
    with torch.no_grad():
        for p, q in zip(x.parameters(), y.parameters(), strict=True):
            q.copy_(p)
        results = []
        for module in (x, y):
            with isolated(7):
                results.append(module(*call[0], **call[1]))
    if not all(isinstance(r, Tensor) for r in results):
        return True
    return _close(results[0], results[1])
