"""A1xx: what is wrong inside one network."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablate.models import declarations

from .finding import Finding
from .subject import STEPS, Subject, isolated
from .writes import InitWrite

SWAMPED = 100.0
"""Largest ratio of two terms of a sum at the start; see docs/audit.md for what the presets give."""
SATURATED = 0.05
SATURATED_SIGMOID = 0.5
"""Largest share of activations at a bound. A sigmoid is a gate, and gates may start nearly shut or open."""
DEAD_SLICES = 0.25
"""Largest share of the slices of a weight along one axis that may go without any gradient."""


def dead_parameters(subject: Subject) -> Iterator[Finding]:
    """A101: no gradient, or exactly zero, over a few steps; or never in the optimiser's reach."""
    trace = subject.training
    if trace.alive:
        for path, parameter in subject.model.named_parameters():
            seen = trace.alive.get(path)
            if not parameter.requires_grad:
                why = "requires_grad is false: it is never trained"
            elif seen is None:
                why = f"no gradient in {STEPS} steps: the output does not depend on it"
            elif not seen.any():
                why = f"its gradient is exactly zero in all of {STEPS} steps"
            else:
                share, axis = _dead_slices(seen)
                if share <= DEAD_SLICES:
                    continue
                why = f"{share:.0%} of axis {axis} has a gradient of exactly zero in all of {STEPS} steps"
            yield Finding.of(
                "A101",
                path,
                f"{path} {tuple(parameter.shape)}: {why}",
                "use it in the forward, or remove it; keep constants in a buffer",
            )
    for path, what in _unregistered(subject.model):
        yield Finding.of(
            "A101",
            path,
            f"{path} is {what} that the network does not register: no optimiser and no checkpoint sees it",
            "assign it as nn.Parameter or module, or keep lists in nn.ModuleList or nn.ParameterList",
        )


def _dead_slices(seen: Tensor) -> tuple[float, int]:
    worst, where = 0.0, 0
    for axis in range(seen.dim() if seen.dim() > 1 else 0):
        if seen.shape[axis] > 1:
            others = [a for a in range(seen.dim()) if a != axis]
            share = float((seen.amax(others) == 0).float().mean())
            if share > worst:
                worst, where = share, axis
    return worst, where


def _unregistered(model: nn.Module) -> Iterator[tuple[str, str]]:
    modules = set(model.modules())
    parameters = {id(p) for p in model.parameters()}
    hidden = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name in hidden:
                continue
            held = value.values() if isinstance(value, dict) else value
            for item in held if isinstance(value, dict | list | tuple) else [value]:
                full = f"{path}.{name}" if path else name
                if isinstance(item, nn.Module):
                    if item not in modules and any(True for _ in item.parameters()):
                        yield full, "a module"
                        break
                elif _learned(item) and id(item) not in parameters:
                    yield full, "a learned tensor"
                    break


def _learned(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad and value.is_leaf


STEP_SIZES = ("dt_proj.bias", "dt_bias")
STEP_SIZE_RANGE = (1e-4, 0.5)


def overwritten_init(subject: Subject) -> Iterator[Finding]:
    """A102: initial values outside the declared range; a deliberate value that a later init wiped."""
    told = set()
    for path, (values, (low, high)) in declarations.initial_ranges(subject.model).items():
        smallest, largest = float(values.min()), float(values.max())
        slack = 1e-6 * max(abs(low), abs(high))
        if not (low - slack <= smallest and largest <= high + slack):
            told.add(path.rpartition(".")[0])
            yield Finding.of(
                "A102",
                path,
                f"{path} starts in [{smallest:.4g}, {largest:.4g}], declared is [{low:g}, {high:g}]",
                "let no later initialisation touch it, or set it after that",
            )
    for path, parameter in subject.model.named_parameters():
        if any(path == prefix or path.startswith(f"{prefix}.") for prefix in told):
            continue
        found = _wiped(parameter.detach(), subject.init_writes.get(path, []))
        if found is None and path.endswith(STEP_SIZES):
            dt = F.softplus(parameter.detach())
            low, high = STEP_SIZE_RANGE
            if not (low <= float(dt.min()) and float(dt.max()) <= high):
                found = f"dt = softplus(bias) starts at {_summary(dt)}, Mamba's is in [0.001, 0.1]"
        if found is not None:
            yield Finding.of(
                "A102",
                path,
                f"{path}: {found}",
                "protect it from the general initialisation, or set it after that",
            )


def _wiped(final: Tensor, writes: list[InitWrite]) -> str | None:
    """How a value that was set on purpose was lost while the network was built, if one was."""
    flat = final.reshape(-1)
    for index, write in enumerate(writes):
        if write.before is None or write.stock:
            continue
        earlier = writes[:index]
        before = write.before.reshape(-1)
        part = next(
            (w for w in reversed(earlier) if not w.stock and w.count < final.numel() and _constant(w.after)),
            None,
        )
        if (
            part is not None
            and part.after is not None
            and write.count > part.count
            and float(part.after.abs().max())
        ):
            now = flat[part.start : part.start + part.count]
            if len(now) == part.count and not torch.allclose(now, part.after.reshape(-1)):
                return f"{_summary(part.after)} was set in a part of it, then {write.operation} wiped that"
        if not _deliberate(before, earlier):
            continue
        now = flat[write.start : write.start + write.count]
        if len(now) == len(before) and not _alike(now, before):
            return f"{_summary(before)} was set, then {write.operation} made it {_summary(now)}"
    return None


def _deliberate(before: Tensor, earlier: list[InitWrite]) -> bool:
    """Whether values look set on purpose: off centre, and by neither torch's default nor a placeholder."""
    if not before.is_floating_point() or not torch.isfinite(before).all() or not before.any():
        return False
    spread = float(before.std()) if before.numel() > 1 else 0.0
    if earlier and earlier[-1].stock:
        return False
    if not earlier and spread == 0:
        return False
    return abs(float(before.mean())) >= spread


def _constant(values: Tensor | None) -> bool:
    return values is not None and values.numel() > 0 and bool((values == values.reshape(-1)[0]).all())


def _alike(a: Tensor, b: Tensor) -> bool:
    if torch.allclose(a, b):
        return True
    spread = float(b.std()) if b.numel() > 1 else 0.0
    return abs(float(a.mean() - b.mean())) < 0.25 * abs(float(b.mean())) and spread > 0 and float(a.std()) > 0


def _summary(values: Tensor) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.4g}" if low == high else f"[{low:.4g}, {high:.4g}]"


def swamped_paths(subject: Subject) -> Iterator[Finding]:
    """A103: of two terms that are added, one is over 100 times the other at the start."""
    remedy = "scale the branches alike at the start, or start the small one at zero"
    worst: dict[str, tuple[float, str]] = {}
    for path, noted in subject.notes.items():
        if "state" in noted and "skip" in noted:
            sizes = [float(noted[name].double().square().mean().sqrt()) for name in ("skip", "state")]
            ratio = max(sizes) / max(min(sizes), 1e-30)
            worst[path] = (ratio, f"skip term {sizes[0]:.3g}, state term {sizes[1]:.3g} (root mean square)")
    for activity in subject.activity:
        if activity.kind == "sum" and activity.ratio > worst.get(activity.path, (0.0, ""))[0]:
            detail = f"the terms of {activity.operation} are {activity.detail} (root mean square)"
            worst[activity.path] = (activity.ratio, detail)
    for path, (ratio, detail) in worst.items():
        if ratio > SWAMPED:
            yield Finding.of("A103", path, f"{path}: {detail}, a ratio of {ratio:.0f}", remedy)


def saturated(subject: Subject) -> Iterator[Finding]:
    """A104: over 5 % of activations at a bound, or dead units."""
    worst: dict[tuple[str, str], tuple[float, str]] = {}
    for path, noted in subject.notes.items():
        for name, value in noted.items():
            if name.startswith("clamp_"):
                worst[path, name.replace("_", " ")] = (float(value), "of the values are at its bound")
    words = {
        "clamp": "of the values are at its bounds {}",
        "saturation": "of the values are on its flat ends",
        "dead": "of its units are zero for every input",
    }
    for activity in subject.activity:
        if activity.kind in words:
            key = (activity.path, activity.operation)
            if activity.share > worst.get(key, (0.0, ""))[0]:
                worst[key] = (activity.share, words[activity.kind].format(activity.detail))
    for (path, operation), (part, text) in worst.items():
        if part > (SATURATED_SIGMOID if operation == "sigmoid" else SATURATED):
            yield Finding.of(
                "A104",
                path or "network",
                f"{path or 'network'}, {operation}: {part:.1%} {text}",
                "widen the bounds or scale what comes in: nothing is learned through a bound",
            )


def non_finite(subject: Subject) -> Iterator[Finding]:
    """A105: NaN or infinite values in a forward, a backward, or a few steps of training."""
    remedy = "guard divisions, roots, logarithms and angles at zero; lower the learning rate or the scale"
    inputs = _inputs(subject)
    if _broken(subject, torch.cat(list(inputs.values()))):
        found = [(what, _broken(subject, batch)) for what, batch in inputs.items()]
        for what, problem in [(w, p) for w, p in found if p][:1]:
            yield Finding.of("A105", "network", f"{what}: {problem}", remedy)
    if subject.training.problem:
        recipe = subject.recipe
        yield Finding.of(
            "A105",
            "network",
            f"training at {recipe.learning_rate:g} in {recipe.precision}: {subject.training.problem}",
            remedy,
        )


def _inputs(subject: Subject) -> dict[str, Tensor]:
    batch = subject.batch[:1]
    half = batch.clone()
    half[..., batch.shape[-1] // 2 :] = 0
    return {
        "noisy speech": batch,
        "full-scale noisy speech": 10 * batch,
        "noisy speech, then digital silence": half,
        "digital silence": torch.zeros_like(batch),
    }


def _broken(subject: Subject, batch: Tensor) -> str | None:
    """Where a forward and backward first leave the finite numbers, if they do."""
    model = subject.spare
    first: list[str] = []

    def look(path: str, out: object) -> None:
        values = out if isinstance(out, tuple | list) else [out]
        if not first and any(isinstance(v, Tensor) and not torch.isfinite(v).all() for v in values):
            first.append(path)

    handles = [
        module.register_forward_hook(lambda m, a, o, path=path: look(path or "the network", o))
        for path, module in model.named_modules()
    ]
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=subject.recipe.precision == "bf16")
    try:
        with isolated(0), autocast:
            out = model(batch)
    finally:
        for handle in handles:
            handle.remove()
    if first:
        return f"the output of {first[0]} is not finite"
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    loss = (
        torch.view_as_real(out).float().square().mean() if out.is_complex() else out.float().square().mean()
    )
    if not loss.requires_grad:
        return None
    grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    bad = [n for n, g in zip(parameters, grads, strict=True) if g is not None and not torch.isfinite(g).all()]
    return (
        f"the gradients of {', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''} are not finite"
        if bad
        else None
    )


CHECKS = (dead_parameters, overwritten_init, swamped_paths, saturated, non_finite)


def check(subject: Subject) -> list[Finding]:
    """Every A1xx finding of a network."""
    return [finding for function in CHECKS for finding in function(subject)]
