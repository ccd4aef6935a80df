"""Whether a device computes what the processor computes: values, gradients and weights of two steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gpu_work import recipe_of, training
from torch import Tensor
from torch.nn import functional as F

from ablate.models import PRESETS
from ablate.models.config import CORES, CROSSBANDS, DECODERS, HEADS, ModelConfig, resolve_model
from ablate.models.scan import using
from ablate.models.spectral import istft, stft
from ablate.training.discriminator import Discriminator
from ablate.training.environment import free_memory, prepared

SMALL = {"channels": 16, "layers": 1, "crossband_layers": 1, "decoder_expansion": 1.0}
JUDGED = {"adversarial_weight": 1.0, "adversarial_start": 0.0}
LIMITS = {"output": 1e-4, "loss": 5e-3, "gradient": 5e-2, "weights": 0.3}
"""Largest relative differences in float32: of outputs, rounding. Of the rest ten times what two backends of
the scan make on one processor (gradients 0.005, weights 0.05, losses 0.0003). The discriminator's maximum may
pick another place, and Adam's first steps move a weight by the sign of its gradient, however small."""


def configurations() -> dict[str, ModelConfig]:
    """Every preset, and every part that is no preset's, all of them small."""
    plain = ModelConfig(**SMALL)

    def parts(field: str, registry: Any) -> dict[str, ModelConfig]:
        own = [name for name in registry if registry[name].__module__.startswith("ablate.models")]
        return {f"{field}={name}": plain.model_copy(update={field: name, "options": {}}) for name in own}

    both = {"direction": "bi", "lookahead": 0}
    cores = parts("core", CORES)
    return {
        **{name: resolve_model(name).model_copy(update=SMALL) for name in PRESETS},
        **cores,
        **{f"{name}, both ways": config.model_copy(update=both) for name, config in cores.items()},
        **parts("crossband", CROSSBANDS),
        **parts("decoder", DECODERS),
        **parts("head", HEADS),
    }


def networks(device: str, names: list[str] | None = None) -> list[dict[str, Any]]:
    """The difference of two steps on the device and on the processor, network by network."""
    found = []
    for name, config in configurations().items():
        if names is None or name in names:
            wanted = _two_steps(config, "cpu", "chunked")
            rows = _differences(_two_steps(config, device, "auto"), wanted)
            found.append({"of": name, **rows, "agrees": all(rows[key] <= LIMITS[key] for key in LIMITS)})
    return found


def _two_steps(config: ModelConfig, device: str, scan: str) -> dict[str, list[Tensor]]:
    place = torch.device(device)
    with using(scan), prepared(place, "fp32", torch.get_num_threads()):
        run = training(config, recipe_of("fp32", 4, tiny=True, **JUDGED), device)
        before = [p.detach().cpu().clone() for p in run.model.parameters()]
        torch.manual_seed(0)
        spectrum = torch.randn(2, 257, 30, dtype=torch.complex64).to(place)
        with torch.no_grad():
            output = run.model.eval()(spectrum).cpu()
        steps = [run.train_step()]
        gradients = [p.grad.detach().cpu().clone() for p in run.model.parameters() if p.grad is not None]
        steps.append(run.train_step())
        assert run.adversary is not None
        moved = zip(run.model.parameters(), before, strict=True)
        found = {
            "output": [output],
            "loss": [torch.tensor([x for s in steps for x in (s.loss, s.grad_norm, s.discriminator_loss)])],
            "gradient": gradients,
            "weights": [p.detach().cpu() - start for p, start in moved],
        }
    free_memory()
    return found


def _differences(found: dict[str, list[Tensor]], wanted: dict[str, list[Tensor]]) -> dict[str, float]:
    """Of each kind the norm of the difference over the norm of what is wanted; infinite where that is 0."""
    return {name: difference(found[name], wanted[name]) for name in wanted}


def difference(found: list[Tensor], wanted: list[Tensor]) -> float:
    one, other = (torch.cat([x.detach().cpu().reshape(-1) for x in part]) for part in (found, wanted))
    one, other = (x.to(torch.complex128) for x in (one, other))
    value = float((one - other).abs().square().sum().sqrt() / other.abs().square().sum().sqrt())
    return value if value == value else float("inf")


def operations(device: str) -> list[dict[str, Any]]:
    """The same of single operations and their gradients, against double precision on the processor."""
    torch.manual_seed(0)
    wave = torch.randn(3, 8000)
    spectrum = torch.randn(3, 257, 60, dtype=torch.complex64)
    judge = Discriminator(4).eval()
    magnitudes = torch.rand(2, 257, 60)
    heads = torch.randn(3, 2, 40, 8)
    masked = torch.ones(40, 40, dtype=torch.bool).tril(3)
    attend = F.scaled_dot_product_attention
    tried: dict[str, tuple[Callable[..., Tensor], Tensor]] = {
        "stft": (stft, wave),
        "istft": (partial(istft, samples=7600), spectrum),
        "discriminator": (lambda x: _on(judge, x)(x, x.flip(0)), magnitudes),
        "attention": (lambda x: attend(x, x.flip(0), x.flip(1)), heads),
        "attention, causal": (lambda x: attend(x, x.flip(0), x.flip(1), is_causal=True), heads),
        "attention, mask": (lambda x: attend(x, x.flip(0), x, attn_mask=masked.to(x.device)), heads),
    }
    found = []
    with prepared(torch.device(device), "fp32", torch.get_num_threads()):
        for name, (call, x) in tried.items():
            double = torch.complex128 if x.is_complex() else torch.float64
            wanted, got = (_with_gradient(call, y) for y in (x.to(double), x.to(device)))
            row = {"output": difference(got[:1], wanted[:1]), "gradient": difference(got[1:], wanted[1:])}
            found.append({"of": name, **row, "agrees": max(row.values()) <= LIMITS["output"]})
    return found


def _on(module: torch.nn.Module, x: Tensor) -> torch.nn.Module:
    return module.to(x.device, x.dtype)


def _with_gradient(call: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = call(x)
    weights = torch.linspace(0.5, 1.5, y.numel(), dtype=torch.float64).view(y.shape).to(x.device)
    weights = weights.to(y.real.dtype)
    (y.abs() * weights).sum().backward()
    assert x.grad is not None
    return [y, x.grad]
