"""A202: what parts, configurations and levels say a network does, against what probes find."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from ablate.models.network import BandSplitNetwork

from ..factors import Factor
from ..grid import Cell
from . import probes
from .cells import listed
from .finding import Finding
from .probes import Probe
from .subject import Subject, subject


@dataclass(frozen=True)
class Measured:
    """What a network does, by perturbation; None where that could not be told."""

    looks_ahead: bool | None
    mixes_bands: bool | None


def _name(path: str, module: nn.Module) -> str:
    return f"{path} ({type(module).__name__})"


def check(audited: Subject) -> list[Finding]:
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


def of_factors(cells: Sequence[Cell], factors: Sequence[Factor]) -> Iterator[Finding]:
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
                    f"{text} (in {listed(names)})",
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
