"""An initial network to evaluate: built from a seed, branches open, running statistics gathered."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablate.models import build_model
from ablate.models.config import ModelConfig
from ablate.models.interface import Interface

from .probe_inputs import SEED, isolated

SETTLING = 5
"""Number of times that a network's own running averages are extrapolated from two forwards."""
SLOWEST = 0.9999
"""If a second forward changes a buffer by this share of the first change or more, the buffer is a counter,
not a running average."""


def build(config: ModelConfig, seed: int = SEED) -> nn.Module:
    """The network of a configuration, initialised from a seed."""
    with isolated(seed):
        return build_model(config)


def settled(config: ModelConfig, batch: Tensor) -> nn.Module:
    """A network with the running statistics of `batch`, in evaluation mode and with its branches `opened`.

    Statistics as built (means 0, variances 1) make a deep network nearly constant, which hides what it does.
    """
    model = opened(build(config))
    interface = Interface.of(model)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    momenta = [m.momentum for m in norms]
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    with isolated(4), torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        model.train()
        interface.outputs(model, batch)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        known = {f"{path}." for path, m in model.named_modules() if m in norms}
        others = [n for n, b in model.named_buffers() if not any(n.startswith(k) for k in known)]
        if any(not torch.equal(model.get_buffer(n), buffers[n]) for n in others if n in buffers):
            for _ in range(SETTLING):
                _extrapolate(model, interface, batch)
    return model.eval()


def _extrapolate(model: nn.Module, interface: Interface, batch: Tensor) -> None:
    """Run two forwards, then set each running average to the limit of the geometric series of its changes."""
    seen: list[dict[str, Tensor]] = []
    for step in range(3):
        seen.append({n: b.clone() for n, b in model.named_buffers() if b.is_floating_point()})
        if step < 2:
            interface.outputs(model, batch)
    for name, start in seen[0].items():
        first, second = (seen[i + 1][name] - seen[i][name] for i in range(2))
        size = float(first.double().square().sum())
        ratio = float((first * second).double().sum()) / size if size else 1.0
        if 0 <= ratio < SLOWEST:
            model.get_buffer(name).copy_(start + first / (1 - ratio))


def opened(module: nn.Module) -> nn.Module:
    """Fill all-zero parameters with small random values, in place, so probes see branches that start shut."""
    with isolated(2), torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point() and not parameter.any():
                parameter.normal_(0, 0.05)
    return module
