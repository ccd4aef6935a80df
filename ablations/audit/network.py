"""A1xx: faults inside one network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ablate.models.errors import listed

from .finding import Finding, Severity
from .network_under_test import Subject
from .operations import Activity, Key
from .parameters import dead_parameters, numbered_together, overwritten_init
from .probe_inputs import isolated

SWAMPED = 100.0
SWAMPED_RESIDUAL = 1000.0
"""Maximum ratio of the two terms of a sum at the start: in general, and of a residual to the term computed
from it. docs/audit.md lists the presets' ratios."""
SATURATED = 0.05
SATURATED_SIGMOID = 0.5
"""Maximum share of activations at a bound: in general, and of sigmoids, since gates may start nearly shut or
open."""
CLOSED = 0.9
"""A layer with a larger share of dead units counts as closed for every input."""
FEWEST = 4
"""Fewer dead units may be chance in a layer whose input is data: one of eight already exceeds `SATURATED`."""
HALVES, GROWS = 0.5, 1000.0
"""Signs that the smaller of two terms grows within a few steps. If it is added to its own input, their ratio
falls to `HALVES` of its value; otherwise the smaller term, since both grow, becomes `GROWS` times larger."""


def dominated_branches(subject: Subject) -> Iterator[Finding]:
    """A103: of two terms that are added, one is far larger than the other at the start.

    Far larger means over 100 times, or over 1000 times if the smaller term was computed from the larger (an
    unscaled residual). Branches that grow within a few steps are left out; see `GROWS`.
    """
    remedy = "initialise both branches at a similar scale, or start the small one at zero"
    worst: dict[str, tuple[float, str]] = {}
    for path, (ratio, sizes) in noted_ratios(subject.notes).items():
        if ratio > SWAMPED:
            text = f"skip term {sizes[0]:.3g}, state term {sizes[1]:.3g} (root mean square)"
            worst[path] = (ratio, text)
    for key, activity in subject.watch.found.items():
        ratio = activity.ratio
        allowed = SWAMPED_RESIDUAL if activity.residual else SWAMPED
        if activity.kind != "sum" or ratio <= max(allowed, worst.get(activity.path, (0.0,))[0]):
            continue
        if not _grows(activity, subject.grown.found.get(key, activity)):
            first, second = activity.sizes
            text = f"the terms of {_called(activity)} are {first:.3g} and {second:.3g} (root mean square)"
            worst[activity.path] = (ratio, text)
    for where, path in numbered_together(worst, key=lambda path: worst[path][0]):
        ratio, text = worst[path]
        yield Finding.of("A103", where, f"{path}: {text}, a ratio of {ratio:.0f}", remedy)


def _grows(activity: Activity, later: Activity) -> bool:
    """Whether the smaller term of a sum grows within a few steps; see `GROWS`."""
    if activity.residual:
        return later.ratio <= HALVES * activity.ratio
    small = activity.sizes.index(min(activity.sizes))
    return later.sizes[small] >= GROWS * activity.sizes[small]


def noted_ratios(notes: Mapping[str, Mapping[str, Tensor]]) -> dict[str, tuple[float, list[float]]]:
    """Path of each scan -> ratio of its larger to its smaller term, and the sizes of skip and state."""
    found = {}
    for path, noted in notes.items():
        if "state" in noted and "skip" in noted:
            sizes = [float(noted[name].double().square().mean().sqrt()) for name in ("skip", "state")]
            found[path] = (max(sizes) / max(min(sizes), 1e-30), sizes)
    return found


def _called(activity: Activity) -> str:
    file, _, line = activity.site.rpartition(":")
    return f"{activity.operation} ({file.rpartition('/')[2]}:{line})" if file else activity.operation


def saturated(subject: Subject) -> Iterator[Finding]:
    """A104: over 5 % of activations (50 % of a sigmoid's) at a bound, or dead units.

    All calls of an operation count together. If the audit's short batch shows dead units, longer clips of
    other voices are tried. Dead units are an error if they are dead with other initial values too, and either
    the layer's input is data (only their own weights could revive them) or nearly the whole layer is dead;
    otherwise they are a note. Bounds on values that do not depend on any weight do not count.
    """
    remedy = "widen the bounds or scale the input: no gradient passes through a bound"
    worst: dict[tuple[str, str], tuple[float, str, bool]] = {}
    for path, noted in subject.notes.items():
        for name, value in noted.items():
            if name.startswith("clamp_") and float(value) > SATURATED:
                worst[path, name.replace("_", " ")] = (float(value), "of the values are at its bound", True)
    for key_of, activity in _still_suspect(subject).items():
        share = activity.share
        if activity.kind == "dead":
            certain = _closed(activity) and all(
                key_of in watch.found and _closed(watch.found[key_of]) for watch in subject.redrawn
            )
            text = "of its units are zero for every input"
        else:
            certain = True
            text = "of the values are " + (
                f"at its bounds {activity.detail}" if activity.kind == "clamp" else "on its flat ends"
            )
        key = (activity.path, _called(activity))
        if share > worst.get(key, (0.0, "", False))[0]:
            worst[key] = (share, text, certain)
    shown = {f"{path or 'network'}|{operation}": (path, operation) for path, operation in worst}
    for where, name in numbered_together(shown, key=lambda name: worst[shown[name]][0]):
        part, text, certain = worst[shown[name]]
        evidence = f"{name.replace('|', ', ')}: {part:.1%} {text}"
        severity: Severity = "error" if certain else "note"
        yield Finding.of("A104", where.partition("|")[0], evidence, remedy, severity=severity)


def _suspect(activity: Activity) -> bool:
    if activity.kind == "sum" or (activity.kind != "dead" and not activity.learned):
        return False
    return activity.share > (SATURATED_SIGMOID if activity.operation == "sigmoid" else SATURATED)


def _closed(activity: Activity) -> bool:
    """Whether a layer has more dead units than chance explains."""
    few = activity.learned <= 1 and activity.dead_units >= FEWEST
    return activity.share > (SATURATED if few else CLOSED)


def _still_suspect(subject: Subject) -> dict[Key, Activity]:
    watch = subject.watch

    def dead() -> bool:
        return any(activity.kind == "dead" and _suspect(activity) for activity in watch.found.values())

    with isolated(0):
        for clip in subject.clips if dead() else ():
            watch.see(subject.interface, clip)
            if not dead():
                break
    return {key: activity for key, activity in watch.found.items() if _suspect(activity)}


def non_finite(subject: Subject) -> Iterator[Finding]:
    """A105: NaN or infinite values in a forward or backward pass, or in a few training steps."""
    remedy = "protect divisions, roots, logarithms and angles at zero; lower the learning rate or the scale"
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
    """Where a forward or backward pass first gives NaN or infinite values; None if it does not."""
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
            out = subject.interface(model, batch)
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
    return f"the gradients of {listed(bad, 3)} are not finite" if bad else None


CHECKS = (dead_parameters, overwritten_init, dominated_branches, saturated, non_finite)


def check(subject: Subject) -> list[Finding]:
    """Every A1xx finding of a network."""
    return [finding for function in CHECKS for finding in function(subject)]
