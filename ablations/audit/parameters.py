"""A101 and A102: parameters that are not trained, and initial values that were set and then lost."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablate.models import declarations

from .finding import Finding, Severity
from .init_trace import InitWrite
from .network_under_test import STEPS, Subject
from .probe_inputs import isolated
from .uncovered import CONFOUND

DEAD_SLICES = 0.25
"""Largest share of a weight's slices along one axis that may have no gradient."""


def dead_parameters(subject: Subject) -> Iterator[Finding]:
    """A101: parameters whose gradient is missing or exactly zero in a few steps and on longer clips, and
    learned tensors that are not registered."""
    remedy = "use it in forward, or remove it; store constants in a buffer"
    frozen = [path for path, p in subject.model.named_parameters() if not p.requires_grad]
    if frozen:
        count = sum(subject.model.get_parameter(path).numel() for path in frozen)
        yield Finding.of(
            "A101",
            _together(frozen, subject.model)[0],
            f"{count:,} values in {len(frozen)} parameters are not trained: requires_grad is false",
            "nothing to fix if they are constants; a buffer makes that explicit",
            severity="note",
        )
    if subject.training.alive:
        why: dict[str, list[str]] = {}
        for path, parameter in subject.model.named_parameters():
            text = _dead(subject, path) if parameter.requires_grad else None
            if text is not None:
                why.setdefault(text, []).append(path)
        ends = _unread_ends(subject, why.get(UNREAD, []))
        if ends:
            share = sum(subject.model.get_parameter(p).numel() for p in ends) / subject.parameters
            why[UNREAD] = [path for path in why[UNREAD] if path not in ends]
            yield Finding.of(
                "A101",
                _together(ends, subject.model)[0],
                f"{len(ends)} parameters of the last layer of a stack are not used, {share:.2%} of all",
                "remove them from the last layer if the parameter count matters",
                severity="note" if share <= CONFOUND else "error",
            )
        for text, paths in why.items():
            own, rest = _with_own_loss(subject, paths)
            if own:
                yield Finding.of(
                    "A101",
                    _together(own, subject.model)[0],
                    f"{len(own)} parameters of outputs with a separate loss are not checked",
                    "nothing to fix: the recipe's loss does not reach them",
                    severity="note",
                )
            for where, inside in _grouped(rest, subject.model).items():
                shape = tuple(subject.model.get_parameter(inside[0]).shape)
                what = f"{where} {shape}" if len(inside) == 1 else f"{len(inside)} parameters {where}"
                severity: Severity = "note" if text.endswith(SUSPICIONS) else "error"
                yield Finding.of("A101", where, f"{what}: {text}", remedy, severity=severity)
    for path, what in _unregistered(subject.after_forward):
        yield Finding.of(
            "A101",
            path,
            f"{path} is {what} that the network does not register: no optimiser or checkpoint has it",
            "assign it as nn.Parameter or module, or keep lists in nn.ModuleList or nn.ParameterList",
        )


UNREAD = f"no gradient in {STEPS} steps: the output does not depend on it"
MORE_WITH_LENGTH = "fewer of them with longer clips"
PADDING = "like taps that only see padding"
SHUT = "although the output can depend on them: an activation blocks them at the start"
NOT_ASKED = "like rows of a table that no index selects"
LUCK = "but not with other initial values"
SUSPICIONS = (MORE_WITH_LENGTH, PADDING, NOT_ASKED, SHUT, LUCK)


def _dead(subject: Subject, path: str) -> str | None:
    """Why a parameter is dead, or None. Longer clips confirm what the few steps suggest."""
    seen = subject.training.alive.get(path)
    if seen is None:
        owner = path.rpartition(".")[0]
        if owner and owner not in subject.called and not _called_inside(subject, owner):
            return f"no gradient in {STEPS} steps: the module is never called"
        return UNREAD
    if seen.any() and _dead_slices(seen)[0] <= DEAD_SLICES:
        return None
    short, long = (grads.get(path) for grads in subject.longer)
    seen = torch.stack([g for g in (seen, short, long) if g is not None]).amax(0)
    elsewhere = [grads[path] for grads in subject.elsewhere if path in grads]
    if not seen.any():
        luck = f", {LUCK}" if any(grad.any() for grad in elsewhere) else ""
        return f"its gradient is exactly zero in all of {STEPS} steps, and on longer clips{luck}"
    share, axis = _dead_slices(seen)
    if share <= DEAD_SLICES:
        return None
    text = f"{share:.0%} of axis {axis} has a gradient of exactly zero in all of {STEPS} steps"
    if short is not None and long is not None and _dead_slices(short)[0] > _dead_slices(long)[0] + 1e-9:
        return f"{text}, {MORE_WITH_LENGTH}"
    module = subject.model.get_submodule(path.rpartition(".")[0])
    if axis > 1 and isinstance(module, nn.modules.conv._ConvNd):
        return f"{text}, {PADDING}"
    if isinstance(module, nn.Embedding):
        return f"{text}, {NOT_ASKED}"
    if _in_use(subject, path, seen.amax([a for a in range(seen.dim()) if a != axis]) == 0, axis):
        return f"{text}, {SHUT}"
    if any(_dead_slices(grad)[0] <= DEAD_SLICES for grad in elsewhere):
        return f"{text}, and on longer clips, {LUCK}"
    return f"{text}, and on longer clips; the output does not depend on these"


def _unread_ends(subject: Subject, dead: list[str]) -> list[str]:
    """Dead parameters of the last layer of a stack whose other layers use theirs."""
    found = []
    for alike in _by_pattern(path for path, _ in subject.model.named_parameters()).values():
        last = max(alike, key=lambda path: [int(number) for number in re.findall(r"\d+", path)])
        if len(alike) > 1 and last in dead and not any(path in dead for path in alike if path != last):
            found.append(last)
    return found


def _in_use(subject: Subject, path: str, silent: Tensor, axis: int) -> bool:
    """Whether the output depends on the silent slices of a parameter, for some values of all parameters."""
    model = copy.deepcopy(subject.settled)
    parameter = model.get_parameter(path)
    start = {name: p.clone() for name, p in model.named_parameters()}
    with isolated(5), torch.no_grad():
        for noise in (0.0, 0.3, 1.0, 1.0, 3.0):
            for name, other in model.named_parameters():
                if other.is_floating_point():
                    size = noise * float(start[name].abs().mean())
                    other.copy_(start[name] + size * torch.randn_like(other))
            before = subject.interface(model, subject.batch)
            rows = parameter.movedim(axis, 0)
            rows[silent] = 10 * max(float(parameter.abs().mean()), 0.1) * torch.randn_like(rows[silent])
            after = subject.interface(model, subject.batch)
            if torch.isfinite(before).all() and not torch.equal(after, before):
                return True
    return False


def _called_inside(subject: Subject, owner: str) -> bool:
    return any(path.startswith(f"{owner}.") for path in subject.called)


def _with_own_loss(subject: Subject, paths: list[str]) -> tuple[list[str], list[str]]:
    """The paths below outputs that the network names in `own_loss` and computes; then the other paths."""
    named = [
        f"{path}.{name}" if path else name
        for path, module in subject.model.named_modules()
        for name in getattr(module, "own_loss", ())
    ]
    computed = [n for n in named if n in subject.called or _called_inside(subject, n)]
    own = [p for p in paths if any(p == n or p.startswith(f"{n}.") for n in computed)]
    return own, [p for p in paths if p not in own]


def _grouped(paths: list[str], model: nn.Module) -> dict[str, list[str]]:
    """Group paths by the outermost module whose trained parameters are all among them, then by names that
    differ in numbers only."""
    groups: dict[str, list[str]] = {}
    left = set(paths)
    for module_path, module in model.named_modules():
        inside = [f"{module_path}.{n}" for n, p in module.named_parameters() if p.requires_grad]
        if module_path and len(inside) > 1 and set(inside) <= left:
            groups[f"under {module_path}"] = inside
            left -= set(inside)
    groups |= {path: [path] for path in paths if path in left}
    return {
        numbered(names): [path for n in names for path in groups[n]] for names in _by_pattern(groups).values()
    }


def _by_pattern(names: Iterable[str]) -> dict[str, list[str]]:
    patterns: dict[str, list[str]] = {}
    for name in names:
        patterns.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    return patterns


def numbered(names: list[str]) -> str:
    """One name for names that differ in numbers only: `layers.{0,1}.D`."""
    parts = [re.split(r"(\d+)", name) for name in names]
    columns = [list(dict.fromkeys(column)) for column in zip(*parts, strict=True)]
    return "".join(c[0] if len(c) == 1 else f"{{{','.join(c)}}}" for c in columns)


def numbered_together(names: Iterable[str], key: Callable[[str], float]) -> Iterator[tuple[str, str]]:
    """For each set of names that differ in numbers only: one name, and the member with the largest key."""
    for alike in _by_pattern(list(names)).values():
        yield numbered(alike), max(alike, key=key)


def _together(paths: list[str], model: nn.Module) -> list[str]:
    return list(_grouped(paths, model)) if len(paths) > 1 else paths


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
                    if item not in modules and any(p.requires_grad for p in item.parameters()):
                        yield full, "a module"
                        break
                elif isinstance(item, Tensor) and item.requires_grad and item.is_leaf:
                    if id(item) in parameters:
                        continue
                    yield full, "a learned tensor"
                    break


STEP_SIZES = ("dt_proj.bias", "dt_bias")
STEP_SIZE_RANGE = (1e-4, 0.5)


def overwritten_init(subject: Subject) -> Iterator[Finding]:
    """A102: initial values outside the declared range, and deliberate values that a later init overwrote."""
    told = set()
    found: dict[str, tuple[str, bool]] = {}
    for path, (values, (low, high)) in declarations.initial_ranges(subject.model).items():
        smallest, largest = float(values.min()), float(values.max())
        slack = 1e-6 * max(abs(low), abs(high))
        if not (low - slack <= smallest and largest <= high + slack):
            told.add(path.rpartition(".")[0])
            found[path] = (
                f"starts in [{smallest:.4g}, {largest:.4g}], but [{low:g}, {high:g}] is declared",
                True,
            )
    reach = _reach(subject.init_writes)
    for path, parameter in subject.model.named_parameters():
        if any(path == prefix or path.startswith(f"{prefix}.") for prefix in told):
            continue
        wiped = _wiped(parameter.detach(), subject.init_writes.get(path, []), reach)
        if wiped is None and path.endswith(STEP_SIZES):
            dt = F.softplus(parameter.detach())
            low, high = STEP_SIZE_RANGE
            if not (low <= float(dt.min()) and float(dt.max()) <= high):
                wiped = f"dt = softplus(bias) starts at {_summary(dt)}, Mamba's is in [0.001, 0.1]", True
        if wiped is not None:
            found[path] = wiped
    for names in _by_pattern(found).values():
        text, certain = next((found[n] for n in names if found[n][1]), found[names[0]])
        yield Finding.of(
            "A102",
            numbered(names),
            f"{numbered(names)}: {text}",
            "exclude it from the general initialisation, or set it afterwards",
            severity="error" if certain else "note",
        )


def _reach(writes: Mapping[str, list[InitWrite]]) -> Counter[str]:
    """How many parameters each line of code wrote; a general initialisation writes more than others."""
    return Counter(site for listed in writes.values() for site in {w.site for w in listed})


def _wiped(final: Tensor, writes: list[InitWrite], reach: Mapping[str, int]) -> tuple[str, bool] | None:
    """How a deliberate value was lost while the network was built, and whether that is certain.

    It is uncertain for random values around zero that a more general initialisation made all equal.
    """
    flat = final.reshape(-1)
    suspicion = None
    for index, write in enumerate(writes):
        earlier = writes[:index]
        again = bool(earlier) and bool(write.site) and write.site == earlier[-1].site
        if write.before is None or write.stock or again:
            continue
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
                last = next((w for w in writes[index:] if not _holds(w, part)), write)
                wiped = f"then {last.operation}{_at(last)} overwrote that"
                return f"{_summary(part.after)} was set in a part of it, {wiped}", True
        now = flat[write.start : write.start + write.count]
        if len(now) != len(before) or _alike(now, before):
            continue
        last = _difference(writes[index:], before)
        after = f"then {last.operation}{_at(last)} made it {_summary(now)}"
        if _deliberate(before, earlier):
            return f"{_summary(before)} was set, {after}", True
        random = earlier and not earlier[-1].stock and before.any() and not _constant(before)
        if random and _constant(now) and reach[last.site] > reach[earlier[-1].site]:
            suspicion = f"{_summary(before)} was set{_at(earlier[-1])}, {after}", False
    return suspicion


def _holds(write: InitWrite, part: InitWrite) -> bool:
    """Whether a write kept the values that an earlier write set in part of the parameter."""
    if write.after is None or part.after is None:
        return True
    start = part.start - write.start
    values = write.after.reshape(-1)[max(start, 0) : start + part.count]
    return len(values) != part.count or torch.allclose(values, part.after.reshape(-1))


def _difference(writes: list[InitWrite], before: Tensor) -> InitWrite:
    """The first write after which the values differ from `before`."""
    first = writes[0]
    for write in writes:
        same_place = (write.start, write.count) == (first.start, first.count)
        if same_place and write.after is not None and not _alike(write.after.reshape(-1), before):
            return write
    return first


def _at(write: InitWrite) -> str:
    file, _, line = write.site.rpartition(":")
    return f" ({Path(file).name}:{line})" if file else ""


def _deliberate(before: Tensor, earlier: list[InitWrite]) -> bool:
    """Whether values look deliberate: off centre, and not torch's default or a placeholder."""
    if not before.is_floating_point() or not torch.isfinite(before).all() or not before.any():
        return False
    spread = float(before.std()) if before.numel() > 1 else 0.0
    if earlier and earlier[-1].stock:
        return False
    if not earlier and spread == 0:
        return False
    centre = abs(float(before.mean()))
    one_sign = bool((before >= 0).all() or (before <= 0).all())
    return one_sign and centre >= spread and centre * before.numel() ** 0.5 >= 4 * spread


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
