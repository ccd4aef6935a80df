"""A201 and A203: levels without any effect, and levels that change more than they declare."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ablate.models.errors import listed
from ablate.models.fields import PARTS
from ablate.training.config import field_marks, is_bookkeeping

from ..factors import Factor
from ..grid import Cell
from . import probes
from .equivalence import same_draw, same_function, same_part
from .finding import Finding
from .neighbours import alike, neighbours
from .network_under_test import Subject, subject


def without_effect(cells: Sequence[Cell], factors: Sequence[Factor]) -> Iterator[Finding]:
    """A201: two levels that give the same network, the same evaluation or the same training."""
    return alike(cells, factors, _same)


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> set[str]:
    return {path for path in {**first, **second} if first.get(path) != second.get(path)}


def _same(a: Cell, b: Cell) -> str | None:
    """Why two cells are equivalent, or None."""
    first, second = a.config.flat(), b.config.flat()
    differs = _differing(first, second)
    if not differs:
        return "they resolve to the same configuration"
    if any(path.startswith("evaluation.") for path in differs):
        if not _same_evaluation(a, b):
            return None
        differs = {path for path in differs if not path.startswith("evaluation.")}
    recipe = {path for path in differs if path.startswith("recipe.")}
    if any(
        not is_bookkeeping(path) and (a.config.is_active(path) or b.config.is_active(path)) for path in recipe
    ):
        return None
    if a.config.model == b.config.model:
        what = ", ".join(sorted(differs)) or "the post-processing"
        return f"nothing depends on {what}"
    return _same_network(a, b)


def _same_evaluation(a: Cell, b: Cell) -> bool:
    """Whether two evaluations change a waveform in the same way and use the same number of filter taps."""
    from ablate.training.evaluate import finishing

    from .probe_inputs import speech_like

    pair = speech_like(1.0, count=1)[0]
    clean, noisy = (torch.from_numpy(wave)[None] for wave in (pair.clean, pair.noisy))
    taps = {c.config.evaluation.taps if c.config.model.head == "filter" else 3 for c in (a, b)}
    if len(taps) > 1:
        return False
    first, second = (finishing(c.config.evaluation)(clean, noisy) for c in (a, b))
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-4, atol=1e-6)


def _same_network(a: Cell, b: Cell) -> str | None:
    first, second = (subject(c.config.model, c.config.recipe) for c in (a, b))
    if first.interface != second.interface:
        return None
    one, two = copy.deepcopy(first.model), copy.deepcopy(second.model)
    ours, theirs = dict(one.named_parameters()), dict(two.named_parameters())
    shared = [n for n in ours if n in theirs and ours[n].shape == theirs[n].shape]
    equal_sets = len(shared) == len(ours) == len(theirs)
    if equal_sets and any(not same_draw(ours[n], theirs[n]) for n in shared):
        return None
    if not same_function(one, two, shared, first):
        return None
    if equal_sets:
        return "equal weights at the start and equal outputs, clamps probed outside their range"
    extra = sorted((ours.keys() | theirs.keys()) - set(shared))
    return f"equal outputs; {listed(extra, 4)} differs but has no effect"


_SAID_OF = {"looks_ahead": "encoder", "mixes_bands": "cross-band", "decoder_expansion": "decoder"}
_WORDS = {
    "split": ("split", "embed", "input", "front", "stem"),
    "cross-band": ("cross", "band_layer", "freq", "across"),
    "encoder": ("encoder", "time", "core", "trunk", "mamba", "lstm", "gru", "rnn", "attention", "branch"),
    "decoder": ("decoder", "head", "mask", "output"),
}


def hidden_changes(
    cells: Sequence[Cell], factors: Sequence[Factor], tuned: Collection[str] = ()
) -> Iterator[Finding]:
    """A203: a level changes fields or parts that its factor does not declare.

    Args:
        tuned: dotted paths that tuning sets for each cell.
    """
    for factor in factors:
        seen: dict[str, list[str]] = {text: [] for text in _hidden_fields(factor)}
        for a, b in neighbours(cells, factor):
            for text in _hidden_in_pair(a, b, factor, frozenset(tuned)):
                seen.setdefault(text, []).append(f"{a.name} and {b.name}")
        for text, pairs in seen.items():
            where = f" (between {listed(pairs, 2)})" if pairs else ""
            yield Finding.of(
                "A203",
                factor.name,
                text + where,
                "make that change a separate factor; waive this if you want to compare the bundle",
            )


def _hidden_fields(factor: Factor) -> Iterator[str]:
    named = {level: delta for level, delta in factor.levels.items() if delta}
    everywhere = set.intersection(*(set(delta) for delta in named.values())) if named else set()
    told = set()
    for level, delta in named.items():
        for path in delta.keys() - everywhere:
            told.add(path)
            yield f"level {level} also sets {path}={delta[path]!r}, which other levels do not set"
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
            if not said & set(field_marks(path).parts) or field_marks(path).parts == PARTS:
                yield f"it declares that it changes the {' and '.join(sorted(said))}, but changes {path}"
    elif "model" in kinds and "model.architecture" not in changed:
        groups = {
            field_marks(path).parts
            for path in changed
            if field_marks(path).parts != ("encoder", "cross-band")
        }
        if len(groups) > 1:
            yield f"it changes several parts at once: {', '.join(sorted(changed))}"


def _hidden_in_pair(a: Cell, b: Cell, factor: Factor, tuned: frozenset[str]) -> Iterator[str]:
    first, second = a.config.flat(), b.config.flat()
    changed = _differing(first, second)
    known = factor.paths | tuned
    if any(cell.config.recipe.match != "free" for cell in (a, b)):
        known |= {"model.channels"}
    for path in sorted(changed - known):
        yield f"{path} changes from {first.get(path)!r} to {second.get(path)!r} along with it"
    allowed = {part for path in changed & known for part in field_marks(path).parts}
    if not any(path.startswith("model.") for path in changed) or allowed >= set(PARTS):
        return
    one, two = (subject(c.config.model, c.config.recipe) for c in (a, b))
    key = ("hidden", id(two), *sorted(allowed))
    if key not in one.results:
        one.results[key] = list(_hidden_parts(one, two, allowed))
    yield from one.results[key]


def _kind(name: str) -> str:
    """The part that the name of a child module suggests, else the name itself."""
    if name in PARTS:
        return name
    return next((kind for kind, words in _WORDS.items() if any(w in name.lower() for w in words)), name)


def _hidden_parts(one: Subject, two: Subject, allowed: set[str]) -> Iterator[str]:
    """Differences of two networks in the parts that may not change."""
    ours, theirs = probes.parts_of(one.model), probes.parts_of(two.model)
    known = allowed | {"other"}
    calls = None
    for name in ours.keys() | theirs.keys():
        kind = _kind(name)
        if kind in allowed or kind not in PARTS:
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
            other = [n for (n, p), q in weights if not same_draw(p, q)]
            if other:
                yield f"{path} starts from other values: {listed(other, 4)}"
            elif path in calls and not same_part(x, y, calls[path]):
                yield f"{path} gives other outputs with equal weights and inputs"


def _shapes(modules: list[tuple[str, nn.Module]]) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{i}.{n}", tuple(p.shape)) for i, (_, m) in enumerate(modules) for n, p in m.named_parameters()]


def _count(modules: list[tuple[str, nn.Module]]) -> int:
    return sum(p.numel() for _, m in modules for p in m.parameters())
