"""Declarations of a network's parts, and recordings of their internal tensors.

Declarations are optional: without one, the functions of this module return a neutral default. The audit
checks declarations against the part's behaviour.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from .errors import InputError

Range = tuple[float, float]


class Declared:
    """Mixin for the built-in parts: the default of every declaration.

    Attributes:
        mixes_bands: whether the output of a band depends on other bands, normalisation statistics aside.
        looks_ahead: number of later frames that an output frame depends on, normalisation statistics aside;
            True if unbounded.
        hidden_width: the inner width; None if not declared.
        reach: number of input frames that an output frame depends on, normalisation statistics aside;
            infinite for the whole past, None if not declared.
        own_loss: paths of submodules that only the network's own loss trains.
    """

    mixes_bands: bool = False
    looks_ahead: bool | int = False
    hidden_width: int | None = None
    reach: float | None = None
    own_loss: tuple[str, ...] = ()

    def init_ranges(self) -> dict[str, Range]:
        """Name of a quantity -> the closed range that contains all of its initial values.

        A name is a parameter's path relative to the part, or a key of `init_values`.
        """
        return {}

    def init_values(self) -> dict[str, Tensor]:
        """Derived quantities in their natural unit, keyed as in `init_ranges`."""
        return {}


def looks_ahead(part: nn.Module) -> bool:
    """Whether the part declares that its output depends on later frames."""
    return bool(getattr(part, "looks_ahead", False))


def frames_ahead(part: nn.Module) -> float:
    """The declared number of later frames; infinite if the declaration is True."""
    said = getattr(part, "looks_ahead", 0)
    return math.inf if said is True else float(said)


def reach(part: nn.Module) -> float | None:
    """The declared `reach`; None if not declared."""
    return getattr(part, "reach", None)


def initial_ranges(model: nn.Module) -> dict[str, tuple[Tensor, Range]]:
    """Full path -> (current values, declared initial range).

    Raises:
        InputError: a part declares a range for a name that is not a parameter or derived quantity.
    """
    found: dict[str, tuple[Tensor, Range]] = {}
    for path, module in model.named_modules():
        ranges = getattr(module, "init_ranges", None)
        if ranges is None:
            continue
        values = dict(module.named_parameters())
        values.update(module.init_values() if hasattr(module, "init_values") else {})
        for name, bounds in ranges().items():
            if name not in values:
                raise InputError(
                    f"{type(module).__name__} declares a range for {name!r}, but has no such parameter; "
                    f"it has {', '.join(sorted(values))}"
                )
            found[f"{path}.{name}" if path else name] = (values[name].detach(), bounds)
    return found


class Recording(dict[str, list[Tensor]]):
    """Name -> recorded tensors of a module; `notes` lists them in order, with the module that noted each."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.members = set(module.modules())
        self.notes: list[tuple[nn.Module, str, Tensor]] = []


_recording: ContextVar[Recording | None] = ContextVar("recording", default=None)


@contextmanager
def record(module: nn.Module) -> Iterator[Recording]:
    """Record the tensors that `module` and its submodules note in the forward passes inside the block.

    A Mamba block notes `state` and `skip`, the two terms of the scan's output `(row, time, inner channel)`,
    and, with clamps, `clamp_<name>`, the share of values at or beyond each bound (a scalar).
    """
    recording = Recording(module)
    token = _recording.set(recording)
    try:
        yield recording
    finally:
        _recording.reset(token)


def recording(module: nn.Module) -> bool:
    """Whether `module` is being recorded and should compute what it notes."""
    current = _recording.get()
    return current is not None and module in current.members


def note(module: nn.Module, name: str, value: Tensor) -> None:
    """Record a tensor of `module`, if it is being recorded."""
    current = _recording.get()
    if current is not None and module in current.members:
        current.setdefault(name, []).append(value.detach())
        current.notes.append((module, name, value.detach()))


@torch.no_grad()
def share(values: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """The share of values at or beyond a bound."""
    beyond = torch.zeros_like(values, dtype=torch.bool)
    if low is not None:
        beyond |= values <= low
    if high is not None:
        beyond |= values >= high
    return beyond.double().mean()
