"""A202: compares what parts, configurations and levels declare about a network with what probes measure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from ablate.models.errors import listed
from ablate.models.network import BandSplitNetwork

from ..factors import Factor
from ..grid import Cell
from . import probes
from .finding import Finding, Severity
from .network_under_test import Subject, subject
from .parameters import numbered_together
from .probes import Probe


@dataclass(frozen=True)
class Measured:
    """How a network behaves, measured by perturbing its input; None if the probe has no answer."""

    looks_ahead: bool | None
    mixes_bands: bool | None


@dataclass(frozen=True)
class Broken:
    """A part that contradicts its declaration."""

    path: str
    evidence: str
    severity: Severity = "error"


def check(audited: Subject) -> list[Finding]:
    """A202 of one network: its parts and configuration against the probes."""
    broken: dict[tuple[str, Severity], dict[str, str]] = {}
    for item in _examined(audited)[1]:
        kind = item.evidence.replace(item.path, "")
        broken.setdefault((kind, item.severity), {})[item.path] = item.evidence
    findings = []
    for (_, severity), found in broken.items():
        for where, path in numbered_together(found, key=lambda _: 0.0):
            text = found[path].replace(path, where)
            findings.append(Finding.of("A202", where, text, _REMEDY, severity=severity))
    return findings


def measured(audited: Subject) -> Measured:
    """How the network behaves, from its time and band layers, or as a whole if it does not have any."""
    return _examined(audited)[0]


_REMEDY = "fix the part or its declaration: otherwise the study is about something else"


def _examined(audited: Subject) -> tuple[Measured, list[Broken]]:
    if "examined" not in audited.results:
        parts, broken = _parts(audited)
        whole, more = _whole(audited)
        ahead, mixes = parts
        found = Measured(
            looks_ahead=any(ahead) if ahead else whole.looks_ahead,
            mixes_bands=any(mixes) if mixes else whole.mixes_bands,
        )
        audited.results["examined"] = (found, [*broken, *_widths(audited), *_items(audited), *more])
    return audited.results["examined"]


def _name(path: str, module: nn.Module) -> str:
    return f"{path} ({type(module).__name__})"


def _roles(audited: Subject, called: dict[str, probes.Call]) -> list[tuple[str, nn.Module, str]]:
    """The parts to examine, with the role that stands in for missing declarations."""
    model = audited.settled
    declaring = probes.declaring(model, called)
    if not isinstance(model, BandSplitNetwork):
        return [(path, module, "part") for path, module in declaring]
    layers = ("time_layers", "band_layers")
    return [
        *((f"time_layers.{i}", module, "core") for i, module in enumerate(model.time_layers)),
        *((f"band_layers.{i}", module, "cross-band module") for i, module in enumerate(model.band_layers)),
        *((path, module, "part") for path, module in declaring if not path.startswith(layers)),
    ]


def _parts(audited: Subject) -> tuple[tuple[list[bool], list[bool]], list[Broken]]:
    """Whether parts look ahead, whether they mix bands, and which declarations are wrong."""
    model, config = audited.settled, audited.config
    calls = probes.inputs_of(audited)
    heads = {m for _, m in probes.decoders_of(model)} | {getattr(model, "head", None)}
    ahead: list[bool] = []
    mixes: list[bool] = []
    broken: list[Broken] = []
    for path, module, role in _roles(audited, calls):
        if path not in calls:
            if not any(inner.startswith(f"{path}.") for inner in calls):
                text = f"{_name(path, module)} is part of the network but is never called"
                broken.append(Broken(path, text))
            continue
        probe = Probe(module, calls[path], audited.probe.shape[-1], config.band_widths)
        frames, found_mixes = probe.frames_ahead(), probe.mixes_bands()
        said_ahead, said_mixes = getattr(module, "looks_ahead", None), getattr(module, "mixes_bands", None)
        how = "declares"
        if role == "core":
            if said_ahead is None or (config.direction == "bi" and not said_ahead):
                broken += _ahead(
                    audited, path, _name(path, module), config.direction == "bi", frames, "direction"
                )
                said_ahead = None
            said_mixes = False if said_mixes is None else said_mixes
        elif role == "cross-band module":
            if said_mixes is None:
                how, said_mixes = "declares nothing, which means", config.crossband != "none"
            said_ahead = False if said_ahead is None else said_ahead
        if module not in heads:
            ahead += [frames > 0] if frames is not None and role != "cross-band module" else []
            mixes += [found_mixes] if found_mixes is not None and role != "core" else []
        if said_ahead is not None:
            broken += _ahead(audited, path, _name(path, module), said_ahead, frames)
        if said_mixes is not None and found_mixes is not None and bool(said_mixes) != found_mixes:
            does = "other bands change" if found_mixes else "no other band changes"
            said = f"{_name(path, module)} {how} mixes_bands={bool(said_mixes)}"
            broken.append(Broken(path, f"{said}, but {does} when one band's input does"))
    return (ahead, mixes), broken


def _ahead(
    audited: Subject, path: str, name: str, said: int, frames: int | None, field: str = "looks_ahead"
) -> list[Broken]:
    """Compare a declared look-ahead in frames (or samples) with the measured one.

    Args:
        said: the declared value: False, True, or the largest number of frames; for `direction`, whether it
            is `bi`.
        frames: number of later frames that affect the output; None if the probe has no answer.
    """
    if frames is None:
        return []
    places, word = audited.probe.shape[-1], audited.interface.place
    limit = places if said is True else int(said)
    if frames <= limit and bool(frames) == bool(said):
        return []
    value = ("bi" if said else "uni") if field == "direction" else said
    does = (
        f"an output changes with {'all' if frames >= places else frames} later {word}s (norms held)"
        if frames
        else f"no output changes when later {word}s do"
    )
    return [Broken(path, f"{name} declares {field}={value}, but {does}")]


def _widths(audited: Subject) -> Iterator[Broken]:
    """Declared inner widths that no parameter has."""
    for path, module in audited.model.named_modules():
        width = getattr(module, "hidden_width", None)
        sizes = {size for parameter in module.parameters() for size in parameter.shape}
        if isinstance(width, int) and sizes and width not in sizes:
            found = ", ".join(map(str, sorted(sizes)))
            text = f"{_name(path, module)} declares hidden_width={width}, its parameters have sizes {found}"
            yield Broken(path, text)


def _items(audited: Subject) -> Iterator[Broken]:
    """Outputs that depend on the other items of the batch."""
    moved = probes.items_move(audited.settled, audited.probe)
    if moved > probes.TOLERANCE:
        text = f"the output of an item changes by {moved:.2g} of its size with the other items of its batch"
        yield Broken("network", text)


def _whole(audited: Subject) -> tuple[Measured, list[Broken]]:
    """Probe the network as one part, for look-ahead and for the mixing of bands.

    The declared look-ahead of filter and projection does not count. If neither the network nor a part
    declares anything, a contradiction to the configuration is a note.
    """
    model, config = audited.settled, audited.config
    inside = [m for _, m in probes.declaring(model)]
    after = [getattr(model, name, None) for name in ("head", "projection")]
    allowed = sum(int(getattr(m, "looks_ahead", 0)) for m in inside if any(m is part for part in after))
    said_ahead, said_mixes = getattr(model, "looks_ahead", None), getattr(model, "mixes_bands", None)
    name = f"network ({type(model).__name__})"
    if said_ahead is None and isinstance(model, BandSplitNetwork):
        layers = [*model.time_layers, *model.band_layers, *(m for _, m in probes.decoders_of(model))]
        if not any(getattr(m, "looks_ahead", config.direction == "bi") for m in layers):
            said_ahead, name = False, "network, of every layer,"
    if inside and said_ahead is None and said_mixes is None:
        return Measured(None, None), []
    through = probes.Through(model)
    probe = Probe(through, ((audited.probe[:1],), {}), audited.probe.shape[-1], config.band_widths)
    frames, mixes = (
        probe.frames_ahead(),
        probe.mixes_bins() if audited.interface.bins == config.bins else None,
    )
    broken: list[Broken] = []
    if said_ahead is not None:
        beyond = frames and max(frames - (allowed if said_ahead is False else 0), 0)
        broken += _ahead(audited, "network", name, said_ahead, beyond)
    elif not inside:
        silent = f"{name} does not declare looks_ahead; its configuration"
        broken += [
            Broken(item.path, item.evidence, "note")
            for item in _ahead(audited, "network", silent, config.direction == "bi", frames, "direction")
        ]
    if said_mixes is not None and mixes is not None and bool(said_mixes) != mixes:
        text = f"{name} declares mixes_bands={bool(said_mixes)}, found is {mixes}"
        broken.append(Broken("network", text))
    return Measured(None if frames is None else frames > allowed, mixes), broken


def of_factors(cells: Sequence[Cell], factors: Sequence[Factor]) -> Iterator[Finding]:
    """A202 of factors: the declarations of a level, checked in every cell at that level."""
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
                    f"{text} (in {listed(names, 4)})",
                    "fix the level or its part: otherwise its effect is attributed to something else",
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
        yield (f"declares {what!r}, which has no probe; known: looks_ahead, mixes_bands, decoder_expansion")
