"""Tests what a part depends on by changing its input: later frames, other bands, other items of the batch."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ablate.models.config import ModelConfig
from ablate.models.interface import Interface
from ablate.models.layouts import BINS, BSRNN

from .network_under_test import Subject
from .probe_inputs import before_calls, isolated
from .statistics import FrozenStatistics

TOLERANCE = 1e-5
"""Smaller changes, relative to the largest output, may be rounding."""
CHANGES = (1.0, 0.1, 0.01, 0.001)
"""Sizes of a change of an input, relative to its root mean square."""
SAMPLE_CUTS = (1024, 1600, 2048)
"""Samples at which the audit cuts a waveform; with most hop sizes, a frame begins there."""


def parts_of(model: nn.Module) -> dict[str, list[tuple[str, nn.Module]]]:
    """The modules of a network by part, with their paths.

    The network's `parts()` decide; without it each direct child is a part.
    """
    paths = {module: path for path, module in model.named_modules()}
    said = getattr(model, "parts", None)
    if callable(said):
        return {name: [(paths[m], m) for m in modules] for name, modules in said().items()}
    return {path: [(path, child)] for path, child in model.named_children()}


def declaring(model: nn.Module, called: Container[str] = ()) -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules below the network that declare something, with their paths.

    Args:
        called: paths of the modules that are called. The called modules inside it replace a module that is
            not called itself.
    """

    def walk(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        for name, child in module.named_children():
            full = f"{path}.{name}" if path else name
            inner = [f"{full}.{deeper}" for deeper, _ in child.named_modules() if deeper]
            passed = full not in called and any(deeper in called for deeper in inner)
            if not passed and any(hasattr(child, said) for said in ("looks_ahead", "mixes_bands")):
                yield full, child
            else:
                yield from walk(full, child)

    yield from walk("", model)


Call = tuple[tuple[Any, ...], dict[str, Any]]


def inputs_of(subject: Subject) -> dict[str, Call]:
    """Path of each module -> (args, kwargs) of its first call on the probe."""
    calls: dict[str, Call] = {}

    def keep(path: str, args: Any, kwargs: Any) -> None:
        if path not in calls:
            calls[path] = tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), (args, kwargs))

    with before_calls(subject.settled, keep), isolated(1), torch.no_grad():
        subject.interface.outputs(subject.settled, subject.probe[:1])
    return calls


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into evaluation mode inside the block; restore its modes afterwards."""
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for m, mode in modes.items():
            m.training = mode


class Probe:
    """A module and one call of it, to be repeated with changed inputs and the same norm statistics.

    Args:
        places: length of the time axis, usually in frames.
        widths: number of bins of each band of the network.
    """

    def __init__(self, module: nn.Module, call: Call, places: int, widths: tuple[int, ...] = BSRNN) -> None:
        self.module, self.call, self.places, self.widths = module, call, places, widths
        self.frozen = FrozenStatistics()
        with torch.no_grad(), isolated(4), evaluating(module), self.frozen.record():
            module(*call[0], **call[1])
        self._before: dict[bool, Any] = {}

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any], size: int = 0) -> Any:
        places = self.places if size == self.places else 0
        with torch.no_grad(), isolated(4), evaluating(self.module), self.frozen.replay(places):
            return self.module(*args, **kwargs)

    def changed(self, size: int, places: slice) -> Any | None:
        """The output after changing some places of every input, along its axis of `size` elements.

        With frozen statistics a large change can make the output infinite; then smaller changes are tried.
        None if no input has such an axis, or the output is never finite.
        """
        for part in CHANGES:
            after = self._changed(size, places, part)
            if all(torch.isfinite(v).all() for v in tree_leaves(after) if isinstance(v, Tensor)):
                return after
        return None

    def _changed(self, size: int, places: slice, part: float) -> Any | None:
        args, kwargs = self.call
        touched = False

        def change(value: Any) -> Any:
            nonlocal touched
            if isinstance(value, tuple):
                return tuple(change(v) for v in value)
            axis = _axis(value, size)
            if axis is None:
                return value
            touched = True
            value = value.clone()
            view = value.movedim(axis, 0)[places]
            scale = float(value.abs().double().square().mean().sqrt()) or 1.0
            view += part * scale * torch.randn_like(view)
            return value

        with isolated(3):
            other = change(args), {k: change(v) for k, v in kwargs.items()}
        if not touched:
            return None
        return self._run(*other, size)

    def moved(self, after: Any, size: int, watched: slice) -> float | None:
        """Largest change at the watched places, relative to the largest output; None without the axis."""
        in_time = size == self.places
        if in_time not in self._before:
            self._before[in_time] = self._run(*self.call, size)
        return _moved(self._before[in_time], after, size, watched)

    def frames_ahead(self) -> int | None:
        """Number of later frames that an output frame depends on: `places` if all, None if not known.

        For samples, the maximum over several cuts, since a stride makes the number depend on the cut.
        """
        found, samples = None, self.places > BINS
        for cut in SAMPLE_CUTS if samples else (self.places // 4, self.places // 2, self.places - 4):
            depends = self._depends_beyond(cut, found or 0) if samples or not found else None
            if depends is not None:
                found = self._reach(cut, found or 0) if depends else found or 0
        return found

    def _depends_beyond(self, cut: int, ahead: int) -> bool | None:
        """Whether output up to frame `cut` depends on frames more than `ahead` later."""
        after = self.changed(self.places, slice(cut + 1 + ahead, None))
        moved = None if after is None else self.moved(after, self.places, slice(0, cut + 1))
        return None if moved is None else moved > TOLERANCE

    def _reach(self, cut: int, low: int = 0) -> int:
        """The largest distance at which later frames matter, by bisection; it is above `low`."""
        high = self.places - cut - 2
        if low >= high or self._depends_beyond(cut, high):
            return self.places
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._depends_beyond(cut, middle) else (low, middle)
        return high

    def mixes_bands(self) -> bool | None:
        """Whether a band of the output depends on other bands; None if there is only one band."""
        return self._mixes(range(len(self.widths) + 1))

    def mixes_bins(self) -> bool | None:
        """Whether a band of the output spectrogram depends on other bands; None if there is only one."""
        return self._mixes([0, *accumulate(self.widths)])

    def _mixes(self, edges: Sequence[int]) -> bool | None:
        """Whether a band between two edges affects output outside it; the axis ends at the last edge."""
        bands, size = len(edges) - 1, edges[-1]
        if bands == 1:
            return None
        for band in (0, bands // 2, bands - 1):
            low, high = edges[band : band + 2]
            after = self.changed(size, slice(low, high))
            if after is None:
                return None
            for other in (slice(0, low), slice(high, size)):
                moved = self.moved(after, size, other) if other.start < other.stop else 0.0
                if moved is None or moved > TOLERANCE:
                    return None if moved is None else True
        return False


def _axis(value: Any, size: int) -> int | None:
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
        return None
    return next((a for a in range(value.dim()) if value.shape[a] == size), None)


def _moved(before: Any, after: Any, size: int, watched: slice) -> float | None:
    if isinstance(before, tuple | list):
        moved = [_moved(b, a, size, watched) for b, a in zip(before, after, strict=True)]
        return max((m for m in moved if m is not None), default=None)
    axis = _axis(before, size)
    if axis is None:
        return None
    a, b = (t.movedim(axis, 0)[watched] for t in (before, after))
    return float((a - b).abs().max()) / max(float(before.abs().max()), 1e-30)


class Through(nn.Module):
    """A network as a module from a signal to the enhanced signal."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.interface = network, Interface.of(network)

    def forward(self, signal: Tensor) -> Tensor:
        return self.interface(self.network, signal)


def items_move(model: nn.Module, batch: Tensor) -> float:
    """How far the first item's output changes, relative to its maximum, if the other items change."""
    other = batch.clone()
    other[1:] = batch[1:].flip(-1) * 0.5
    outputs = []
    for items in (batch, other):
        with torch.no_grad(), isolated(4), evaluating(model):
            outputs.append(Interface.of(model)(model, items)[0])
    return float((outputs[0] - outputs[1]).abs().max()) / max(float(outputs[0].abs().max()), 1e-30)


def inner_widths(module: nn.Module, channels: int) -> set[int]:
    """Output widths of a part's weights that take `channels` inputs."""
    found = set()
    for owner in module.modules():
        for weight in owner._parameters.values():
            if weight is None or weight.dim() < 2:
                continue
            if isinstance(owner, nn.Linear) or (weight.dim() == 2 and not isinstance(owner, nn.Embedding)):
                out, into = weight.shape
                found |= {out} if into == channels else set()
            elif isinstance(owner, nn.Conv1d | nn.Conv2d):
                found |= {weight.shape[0]} if weight.shape[1] * owner.groups == channels else set()
            elif weight.dim() == 3 and weight.shape[0] <= BINS:
                into, out = weight.shape[1:]
                found |= ({out} if into == channels else set()) | ({into} if out == channels else set())
    return found


def decoders_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """A network's decoders: modules of a registered decoder's class, else its parts with that name."""
    from ablate.models.parts import DECODERS

    kinds = {kind for kind in (DECODERS[name] for name in DECODERS) if isinstance(kind, type)}
    found = [(path, m) for path, m in model.named_modules() if not kinds.isdisjoint(type(m).__mro__)]
    return found or [
        item for name, items in parts_of(model).items() if "decoder" in name.lower() for item in items
    ]


def expansion(model: nn.Module, config: ModelConfig, declared: float) -> tuple[bool, str] | None:
    """Whether each decoder's inner width is `declared` times its input width, and the widths found.

    None if a width is not found, or there is no decoder.
    """
    decoders = decoders_of(model)
    if not decoders:
        return None
    wanted = max(1, round(declared * config.channels))
    seen = []
    for path, module in decoders:
        widths_found = inner_widths(module, config.channels)
        if not widths_found:
            return None
        seen.append((wanted in widths_found, f"{path}: {', '.join(map(str, sorted(widths_found)))}"))
    return all(ok for ok, _ in seen), "; ".join(text for _, text in seen)
