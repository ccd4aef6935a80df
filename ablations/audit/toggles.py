"""A2xx and A3xx: what levels do, against what they and the parts say; what no factor covers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ablate.models.network import BandSplitNetwork

from ..factors import Factor
from ..grid import Cell
from . import probes
from .finding import Finding
from .probes import Probe
from .subject import Subject, isolated, subject

CONFOUND = 0.02
"""Smallest relative change of the parameter count that is worth a note."""


@dataclass(frozen=True)
class Measured:
    """What a network does, by perturbation; None where that could not be told."""

    looks_ahead: bool | None
    mixes_bands: bool | None


def _name(path: str, module: nn.Module) -> str:
    return f"{path} ({type(module).__name__})"


def declarations(audited: Subject) -> list[Finding]:
    """A202 of one network: what its parts and its configuration say against what probes find."""
    return list(_examined(audited)[1])


def measured(audited: Subject) -> Measured:
    """What the network does through its time and band layers, or as a whole where it has none."""
    return _examined(audited)[0]


def _examined(audited: Subject) -> tuple[Measured, list[Finding]]:
    if "examined" not in audited.results:
        findings: list[Finding] = []
        audited.results["examined"] = (_examine(audited, findings), findings)
    return audited.results["examined"]


_REMEDY = "correct the part, or what it declares: the study would be about something else"


def _examine(audited: Subject, findings: list[Finding]) -> Measured:
    model, config = audited.model, audited.config
    calls = probes.inputs_of(audited)
    heads = {m for _, m in probes.decoders_of(model)} | {getattr(model, "head", None)}

    def broken(path: str, evidence: str) -> None:
        findings.append(Finding.of("A202", path, evidence, _REMEDY))

    ahead: list[bool] = []
    mixes: list[bool] = []
    if isinstance(model, BandSplitNetwork):
        roles: list[tuple[str, nn.Module, str]] = [
            (f"time_layers.{i}", m, "core") for i, m in enumerate(model.time_layers)
        ]
        roles += [(f"band_layers.{i}", m, "cross-band module") for i, m in enumerate(model.band_layers)]
        roles += [
            (p, m, "part")
            for p, m in probes.declaring(model, calls)
            if not p.startswith(("time_layers", "band_layers"))
        ]
    else:
        roles = [(p, m, "part") for p, m in probes.declaring(model, calls)]
    for path, module, role in roles:
        if path not in calls:
            if not any(inner.startswith(f"{path}.") for inner in calls):
                broken(path, f"{_name(path, module)} is part of the network and never called")
            continue
        said_here = "declares"
        probe = Probe(probes.opened(module), calls[path])
        found_ahead, found_mixes = probe.looks_ahead(), probe.mixes_bands()
        said_ahead, said_mixes = getattr(module, "looks_ahead", None), getattr(module, "mixes_bands", None)
        if role == "core":
            ahead += [] if found_ahead is None else [found_ahead]
            if said_ahead is None or (config.direction == "bi" and not said_ahead):
                wanted = config.direction == "bi"
                if found_ahead is not None and found_ahead != wanted:
                    broken(path, _direction(path, module, f"direction={config.direction}", found_ahead))
                said_ahead = None
            said_mixes = False if said_mixes is None else said_mixes
        elif role == "cross-band module":
            mixes += [] if found_mixes is None else [found_mixes]
            if said_mixes is None:
                said_here, said_mixes = "says nothing, which stands for", config.crossband != "none"
            said_ahead = False if said_ahead is None else said_ahead
        elif module not in heads:
            ahead += [] if found_ahead is None else [found_ahead]
            mixes += [] if found_mixes is None else [found_mixes]
        if said_ahead is not None and found_ahead is not None and bool(said_ahead) != found_ahead:
            broken(path, _direction(path, module, f"looks_ahead={bool(said_ahead)}", found_ahead))
        if said_mixes is not None and found_mixes is not None and bool(said_mixes) != found_mixes:
            does = (
                "other bands change when one band's input does"
                if found_mixes
                else ("no other band changes when one band's input does")
            )
            broken(path, f"{_name(path, module)} {said_here} mixes_bands={bool(said_mixes)}, but {does}")
    for path, module in model.named_modules():
        width, sizes = getattr(module, "hidden_width", None), probes.widths(module)
        if isinstance(width, int) and sizes and width not in sizes:
            broken(
                path,
                f"{_name(path, module)} declares hidden_width={width}, its parameters have sizes "
                f"{', '.join(map(str, sorted(sizes)))}",
            )
    if probes.mixes_items(model, audited.probe):
        broken("network", "the output of an item changes with the other items of its batch")
    whole = _whole(audited, findings)
    return Measured(
        looks_ahead=any(ahead) if ahead else whole.looks_ahead,
        mixes_bands=any(mixes) if mixes else whole.mixes_bands,
    )


def _direction(path: str, module: nn.Module, said: str, found: bool) -> str:
    does = (
        "outputs change when later frames do (norm statistics held)"
        if found
        else "no output changes when later frames do"
    )
    return f"{_name(path, module)} says {said}, but {does}"


def _whole(audited: Subject, findings: list[Finding]) -> Measured:
    """The network as one part: frames beyond the filter's last tap, and bins of other bands.

    A network that says nothing, and none of whose parts does, is held to its configuration's direction.
    """
    model, config = audited.model, audited.config
    inside = [m for _, m in probes.declaring(model)]
    head = getattr(model, "head", None)
    taps = any(getattr(m, "looks_ahead", False) and m is head for m in inside)
    said_ahead, said_mixes = getattr(model, "looks_ahead", None), getattr(model, "mixes_bands", None)
    said = f"looks_ahead={bool(said_ahead)}"
    if said_ahead is None and isinstance(model, BandSplitNetwork):
        layers = [*model.time_layers, *model.band_layers, *(m for _, m in probes.decoders_of(model))]
        if not any(getattr(m, "looks_ahead", config.direction == "bi") for m in layers):
            said_ahead, said = False, "of every layer looks_ahead=False"
    elif said_ahead is None and not inside:
        said_ahead, said, taps = config.direction == "bi", f"nothing, its direction={config.direction}", True
    if inside and said_ahead is None and said_mixes is None:
        return Measured(None, None)
    probe = Probe(probes.opened(model), ((audited.probe[:1],), {}))
    found = Measured(probe.looks_ahead(allowed=1 if taps else 0), probe.mixes_bins())
    if said_ahead is not None and found.looks_ahead is not None and bool(said_ahead) != found.looks_ahead:
        text = _direction("network", model, said, found.looks_ahead)
        findings.append(Finding.of("A202", "network", text, _REMEDY))
    if said_mixes is not None and found.mixes_bands is not None and bool(said_mixes) != found.mixes_bands:
        text = f"{type(model).__name__} declares mixes_bands={bool(said_mixes)}, found is {found.mixes_bands}"
        findings.append(Finding.of("A202", "network", text, _REMEDY))
    return found


def factor_declarations(cells: Sequence[Cell], factors: Sequence[Factor]) -> Iterator[Finding]:
    """A202 of factors: what a level says a network does, in every cell at that level."""
    for factor in factors:
        for level, said in factor.declares.items():
            wrong: dict[str, list[str]] = {}
            for cell in cells:
                if cell.levels.get(factor.name) != level:
                    continue
                for what, value in said.items():
                    for text in _contradicted(cell, what, value):
                        wrong.setdefault(text, []).append(cell.name)
            for text, names in wrong.items():
                yield Finding.of(
                    "A202",
                    f"{factor.name}={level}",
                    f"{text} (in {_list(names)})",
                    "correct the level or the part it names: its effect would be credited to something else",
                )


def _contradicted(cell: Cell, what: str, value: bool | float) -> Iterator[str]:
    audited = subject(cell.config.model, cell.config.recipe)
    if what == "decoder_expansion":
        answer = probes.expansion(audited.model, cell.config.model, float(value))
        if answer is not None and not answer[0]:
            channels = cell.config.model.channels
            yield f"declares a decoder of {value:g} x {channels} channels, its inner widths are {answer[1]}"
    elif what in ("looks_ahead", "mixes_bands"):
        found = getattr(measured(audited), what)
        if found is not None and found != bool(value):
            yield f"declares {what}={bool(value)}, the probe finds {found}"
    else:
        yield f"declares {what!r}, which no probe knows; known: looks_ahead, mixes_bands, decoder_expansion"


def _list(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def neighbours(cells: Sequence[Cell], factor: Factor) -> Iterator[tuple[Cell, Cell]]:
    """Pairs of cells that differ in this factor alone, the lower level first."""
    order = list(factor.levels)
    for i, a in enumerate(cells):
        for b in cells[i + 1 :]:
            if not a.levels or a.levels.keys() != b.levels.keys():
                continue
            differs = [name for name in a.levels if a.levels[name] != b.levels[name]]
            if differs == [factor.name]:
                first, second = sorted((a, b), key=lambda c: order.index(c.levels[factor.name]))
                yield first, second


def without_effect(cells: Sequence[Cell], factors: Sequence[Factor]) -> Iterator[Finding]:
    """A201: two levels that give the same network, the same evaluation or the same training."""
    for factor in factors:
        same: dict[tuple[str, str], list[str]] = {}
        effective: set[tuple[str, str]] = set()
        for a, b in neighbours(cells, factor):
            levels = (a.levels[factor.name], b.levels[factor.name])
            why = _same(a, b)
            if why is None:
                effective.add(levels)
            else:
                same.setdefault(levels, []).append(f"{a.name} and {b.name}: {why}")
        for levels, pairs in same.items():
            everywhere = levels not in effective
            more = f" and {len(pairs) - 2} more" if len(pairs) > 2 else ""
            where = "" if everywhere else "in some cells "
            yield Finding.of(
                "A201",
                factor.name,
                f"{levels[0]} and {levels[1]} make no difference {where}({'; '.join(pairs[:2])}{more})",
                "correct the level, or leave the factor out: its effect would be noise",
                severity="error" if everywhere else "note",
            )


def _same(a: Cell, b: Cell) -> str | None:
    """Why two cells are the same in effect, or None."""
    first, second = a.config.flat(), b.config.flat()
    differs = {path for path in first if first[path] != second[path]}
    if not differs:
        return "they resolve to the same configuration"
    if any(path.startswith("evaluation.") for path in differs):
        if not _same_evaluation(a, b):
            return None
        differs = {path for path in differs if not path.startswith("evaluation.")}
    recipe = {path for path in differs if path.startswith("recipe.")}
    idle = {path for path in recipe if _idle(path, first) and _idle(path, second)}
    if recipe - idle:
        return None
    if a.config.model == b.config.model:
        what = ", ".join(sorted(differs)) or "the post-processing"
        return f"nothing depends on {what}"
    return _same_network(a, b)


def _idle(path: str, config: dict[str, Any]) -> bool:
    """Whether a field of the recipe changes nothing in a configuration."""
    from ablate.training.config import is_bookkeeping

    if is_bookkeeping(path):
        return True
    name = path.removeprefix("recipe.")
    if name in ("adversarial_start", "discriminator_start", "discriminator_learning_rate"):
        return not config["recipe.adversarial_weight"]
    if name in ("decay", "decay_every"):
        return config["recipe.schedule"] in ("constant", "cosine")
    if name == "compression":
        return not config["recipe.magnitude_weight"] and not config["recipe.adversarial_weight"]
    return False


def _same_evaluation(a: Cell, b: Cell) -> bool:
    """Whether the post-processing of two cells does the same to a wave."""
    from ablate.training.evaluate import POST_PROCESSING

    from .subject import speech_like

    wave = torch.from_numpy(speech_like(1.0, count=1)[0].noisy)[None]
    first, second = (POST_PROCESSING[c.config.evaluation.post_processing](wave) for c in (a, b))
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-4, atol=1e-6)


def _same_network(a: Cell, b: Cell) -> str | None:
    first, second = (subject(c.config.model, c.config.recipe) for c in (a, b))
    one, two = copy.deepcopy(first.model), copy.deepcopy(second.model)
    ours, theirs = dict(one.named_parameters()), dict(two.named_parameters())
    shared = [n for n in ours if n in theirs and ours[n].shape == theirs[n].shape]
    equal_sets = len(shared) == len(ours) == len(theirs)
    if equal_sets and any(not _same_draw(ours[n], theirs[n]) for n in shared):
        return None
    if not _same_function(one, two, shared, first):
        return None
    if equal_sets:
        return "equal weights at the start and equal outputs, clamps probed outside their range"
    extra = sorted((ours.keys() | theirs.keys()) - set(shared))
    return f"equal outputs; {_list(extra)} differs and does nothing"


def _same_draw(a: Tensor, b: Tensor) -> bool:
    """Whether two initial values are equal, or draws of one distribution."""
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


def _same_function(one: nn.Module, two: nn.Module, shared: list[str], audited: Subject) -> bool:
    """Whether two networks agree with equal weights: as drawn, and with weights that make clamps bite."""
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
            out = model(batch)
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


EVERYWHERE = ("split", "encoder", "cross-band", "decoder", "other")
_ENCODER = ("core", "layers", "direction", "norm", "heads")
_SSM = ("d_state", "expand", "d_conv", "ssm_skip", "dt_init", "clamps")
PARTS_OF_FIELD: dict[str, tuple[str, ...]] = {
    **{f"model.{name}": EVERYWHERE for name in ("architecture", "channels")},
    **{f"model.{name}": ("encoder",) for name in _ENCODER},
    **{f"model.{name}": ("encoder", "cross-band") for name in _SSM},
    **{f"model.{name}": ("cross-band",) for name in ("crossband", "crossband_layers")},
    **{f"model.{name}": ("decoder",) for name in ("decoder", "decoder_expansion", "head")},
    "model.order": (),
}
"""Which parts of a network a field of its configuration is about."""

_SAID_OF = {"looks_ahead": "encoder", "mixes_bands": "cross-band", "decoder_expansion": "decoder"}
_WORDS = {
    "split": ("split", "embed", "input", "front", "stem"),
    "cross-band": ("cross", "band_layer", "freq", "across"),
    "encoder": ("encoder", "time", "core", "trunk", "mamba", "lstm", "gru", "rnn", "attention", "branch"),
    "decoder": ("decoder", "head", "mask", "output"),
}


def hidden_changes(cells: Sequence[Cell], factors: Sequence[Factor]) -> Iterator[Finding]:
    """A203: a level changes fields or parts that its factor does not declare."""
    for factor in factors:
        seen: dict[str, list[str]] = {text: [] for text in _hidden_fields(factor)}
        for a, b in neighbours(cells, factor):
            for text in _hidden_in_pair(a, b, factor):
                seen.setdefault(text, []).append(f"{a.name} and {b.name}")
        for text, pairs in seen.items():
            where = f" (between {_list(pairs, 2)})" if pairs else ""
            yield Finding.of(
                "A203",
                factor.name,
                text + where,
                "give that change a factor of its own; waive this if the bundle is what is compared",
            )


def _hidden_fields(factor: Factor) -> Iterator[str]:
    named = {level: delta for level, delta in factor.levels.items() if delta}
    everywhere = set.intersection(*(set(delta) for delta in named.values())) if named else set()
    told = set()
    for level, delta in named.items():
        for path in delta.keys() - everywhere:
            told.add(path)
            yield f"level {level} also sets {path}={delta[path]!r}, which other levels leave alone"
    values: dict[str, set[str]] = {}
    for delta in factor.levels.values():
        for path, value in delta.items():
            values.setdefault(path, set()).add(repr(value))
    partly = len(named) < len(factor.levels)
    changed = {path for path, v in values.items() if partly or len(v) > 1} - told
    said = {_SAID_OF[what] for facts in factor.declares.values() for what in facts if what in _SAID_OF}
    kinds = {path.split(".")[0] for path in changed}
    if len(kinds) > 1:
        yield f"it changes {' and '.join(sorted(kinds))} at once: {', '.join(sorted(changed))}"
    elif said:
        for path in sorted(changed):
            if not said & set(PARTS_OF_FIELD.get(path, ())) or PARTS_OF_FIELD.get(path) == EVERYWHERE:
                yield f"it declares to change the {' and '.join(sorted(said))}, and changes {path}"
    elif "model" in kinds and "model.architecture" not in changed:
        groups = {
            PARTS_OF_FIELD[path] for path in changed if PARTS_OF_FIELD[path] != ("encoder", "cross-band")
        }
        if len(groups) > 1:
            yield f"it changes several parts at once: {', '.join(sorted(changed))}"


def _hidden_in_pair(a: Cell, b: Cell, factor: Factor) -> Iterator[str]:
    first, second = a.config.flat(), b.config.flat()
    changed = {path for path in first if first[path] != second[path]}
    for path in sorted(changed - factor.paths):
        yield f"{path} changes from {first[path]!r} to {second[path]!r} along with it"
    allowed = {part for path in changed & factor.paths for part in PARTS_OF_FIELD.get(path, ())}
    if not any(path.startswith("model.") for path in changed) or allowed >= set(EVERYWHERE):
        return
    one, two = (subject(c.config.model, c.config.recipe) for c in (a, b))
    key = ("hidden", id(two), *sorted(allowed))
    if key not in one.results:
        one.results[key] = list(_hidden_parts(one, two, allowed))
    yield from one.results[key]


def _kind(name: str) -> str:
    """The part that a name of an unknown network's child stands for; its own name where that is not known."""
    if name in EVERYWHERE:
        return name
    return next((kind for kind, words in _WORDS.items() if any(w in name.lower() for w in words)), name)


def _hidden_parts(one: Subject, two: Subject, allowed: set[str]) -> Iterator[str]:
    """What differs between two networks in the parts that may not change."""
    ours, theirs = probes.parts_of(one.model), probes.parts_of(two.model)
    known = allowed | {"other"}
    calls = None
    for name in ours.keys() | theirs.keys():
        kind = _kind(name)
        if kind in allowed or kind not in EVERYWHERE:
            continue
        known.add(kind)
        shapes = [_shapes(parts.get(name, [])) for parts in (ours, theirs)]
        if shapes[0] != shapes[1]:
            counts = [_count(parts.get(name, [])) for parts in (ours, theirs)]
            yield f"the part {name!r} changes too: {counts[0]:,} and {counts[1]:,} parameters"
            continue
        calls = probes.inputs_of(one) if calls is None else calls
        for (path, x), (_, y) in zip(ours[name], theirs[name], strict=True):
            weights = zip(x.named_parameters(), y.parameters(), strict=True)
            other = [n for (n, p), q in weights if not _same_draw(p, q)]
            if other:
                yield f"{path} starts from other values: {_list(other)}"
            elif path in calls and not _same_part(x, y, calls[path]):
                yield f"{path} does something else with equal weights and inputs"


def _shapes(modules: list[tuple[str, nn.Module]]) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{i}.{n}", tuple(p.shape)) for i, (_, m) in enumerate(modules) for n, p in m.named_parameters()]


def _count(modules: list[tuple[str, nn.Module]]) -> int:
    return sum(p.numel() for _, m in modules for p in m.parameters())


def _same_part(x: nn.Module, y: nn.Module, call: probes.Call) -> bool:
    x, y = probes.opened(x), copy.deepcopy(y).eval()
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


def capacity(cells: Sequence[Cell], factors: Sequence[Factor]) -> Iterator[Finding]:
    """A302: a level that changes the parameter count by more than 2 %."""
    for factor in factors:
        changes: dict[tuple[str, str], list[float]] = {}
        for a, b in neighbours(cells, factor):
            counts = [subject(c.config.model, c.config.recipe).parameters for c in (a, b)]
            changes.setdefault((a.levels[factor.name], b.levels[factor.name]), []).append(
                counts[1] / counts[0] - 1
            )
        for (low, high), shares in changes.items():
            if max(map(abs, shares)) > CONFOUND:
                ends = dict.fromkeys(f"{share:+.1%}" for share in (min(shares), max(shares)))
                yield Finding.of(
                    "A302",
                    factor.name,
                    f"{high} has {' to '.join(ends)} parameters against {low}",
                    "its effect is also that of size; match the counts by width, or say so beside the result",
                )


def untoggled(cells: Sequence[Cell], factors: Sequence[Factor]) -> Iterator[Finding]:
    """A301: in what base and baseline differ that no factor covers."""
    from ..diff import differences, propose

    base = next((c for c in cells if c.levels and all(c.levels[f.name] == f.off for f in factors)), None)
    baseline = next((c for c in cells if not c.levels), None)
    if base is None or baseline is None or base is baseline:
        return
    found = [d for d in differences(base.config, baseline.config, factors) if d.group == "not toggled"]
    if found:
        yield Finding.of(
            "A301",
            f"{base.name} and {baseline.name}",
            "no factor covers " + ", ".join(f"{d.path} {d.a} -> {d.b}" for d in found),
            "the gap is not the sum of the factors; close it with: "
            + propose(base.config, baseline.config, factors),
        )
