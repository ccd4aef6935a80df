"""The inputs and outputs of a network, and conversion between them and speech.

A network declares them with attributes of its class or object, or with `declare`. Without declarations, it
maps a complex spectrogram `(batch, 257, time)` to one of the same shape. Code that runs networks uses
`Interface`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from . import spectral
from .enhancer import compress, power
from .errors import InputError
from .registry import suggestion
from .transform import Transform

LAYOUTS = {"waveform": "bt", "spectrum": "bft", "magnitude": "bft", "magnitude-phase": "bft"}
"""Domain -> default order of axes: batch, frequency, time (for waveforms: sample)."""
LONGER = 1600
"""Samples by which a waveform network's output may be too long or too short; it is trimmed or zero-padded."""
UNDERFLOW = 1e-18
"""Smaller magnitudes count as 0, because the gradient of an angle divides by their square."""
DECLARATIONS = (
    *("domain", "axes", "transform", "compress", "output", "loss"),
    *("looks_ahead", "mixes_bands", "own_loss", "sample_rate"),
)
SAMPLE_RATE = 16_000
"""Default sample rate in Hz, for networks that do not declare one."""
RATES = (4_000, 192_000)


def declare(network: nn.Module, **said: Any) -> nn.Module:
    """Declare a network's inputs, outputs and properties without changing its class; returns the network.

    Args:
        said: declarations by name, from `DECLARATIONS`; see docs/plugins.md.

    Raises:
        InputError: a declaration is unknown or not valid.
    """
    for name in said:
        if name not in DECLARATIONS:
            raise InputError(f"a network cannot declare {name!r}{suggestion(name, DECLARATIONS)}")
    network.__dict__["_said"] = getattr(network, "_said", {}) | said
    for name in ("looks_ahead", "mixes_bands", "own_loss"):
        if name in said:
            setattr(network, name, said[name])
    Interface.of(network)
    return network


def _said(network: nn.Module, name: str, *kinds: type) -> Any:
    """A network's declaration, or None. An attribute of another type than `kinds` is not a declaration."""
    known = getattr(network, "_said", {})
    value = known.get(name) if name in known else getattr(network, name, None)
    if value is None or (isinstance(value, kinds) and not isinstance(value, bool)):
        return value
    if name in known:
        raise InputError(f"{name}={value!r}: expected {' or '.join(kind.__name__ for kind in kinds)}")
    return None


def _rate(network: nn.Module) -> int:
    """The sample rate from `declare` or the network's class; an attribute of the object does not count."""
    rate = getattr(network, "_said", {}).get("sample_rate", getattr(type(network), "sample_rate", None))
    if not isinstance(rate, int):
        return SAMPLE_RATE
    if not RATES[0] <= rate <= RATES[1]:
        raise InputError(f"sample_rate={rate} is not possible; use {RATES[0]} to {RATES[1]} Hz")
    return rate


@dataclass(frozen=True)
class Interface:
    """Converts speech to a network's inputs, and its outputs to speech.

    A *signal* is the network's speech in a form that does not depend on its layout: complex
    `(batch, bin, frame)`, or waveforms `(batch, sample)`. Time is its last axis.

    Attributes:
        domain: a key of `LAYOUTS`.
        axes: order of the tensors' axes: b(atch), f(requency), t(ime), 1 for an axis of one, 2 for real and
            imaginary parts; e.g. `bft2`, `b2tf`, `b1t`.
        transform: the network's transform; None for this project's.
        compress: exponent applied to the magnitudes of inputs and outputs.
        output: key or index of the enhanced signal among several outputs, or two of them for its real and
            imaginary parts, or its magnitude and phase.
        loss: the network's own loss, called with `(outputs, clean)` or `(outputs, clean, noisy)`.
        sample_rate: sample rate of the speech in Hz, from `declare` or an attribute of the network's class.
    """

    domain: str = "spectrum"
    axes: str = "bft"
    transform: Transform | None = None
    compress: float = 1.0
    output: Any = None
    loss: Callable[..., Tensor] | None = field(default=None, compare=False)
    sample_rate: int = field(default=SAMPLE_RATE, compare=False)

    @classmethod
    def of(cls, network: nn.Module) -> Interface:
        """The interface that a network declares.

        Raises:
            InputError: the declarations do not fit together.
        """
        domain = _said(network, "domain", str) or "spectrum"
        if domain not in LAYOUTS:
            raise InputError(f"unknown domain {domain!r}{suggestion(domain, LAYOUTS)}")
        axes = _said(network, "axes", str) or LAYOUTS[domain]
        letters = "bt" if domain == "waveform" else "bft"
        allowed = [sorted(letters), *([sorted(f"{letters}2")] if domain == "spectrum" else [])]
        if sorted(axes.replace("1", "")) not in allowed:
            more = ", 2 for real and imaginary parts" if domain == "spectrum" else ""
            raise InputError(
                f"axes {axes!r} of a {domain} are not valid: use each of {letters} once, and 1 for an "
                f"axis of size one{more}"
            )
        transform = _said(network, "transform", Transform)
        compress = float(_said(network, "compress", int, float) or 1.0)
        if domain == "waveform" and (transform is not None or compress != 1):
            raise InputError("transform and compress do not apply to a network of waveforms; leave them out")
        if compress <= 0:
            raise InputError(f"compress={compress:g} is not above 0")
        output = _said(network, "output", str, int, tuple, list)
        if output is None and domain == "magnitude-phase":
            output = (0, 1)
        loss = getattr(network, "_said", {}).get("loss", getattr(network, "loss", None))
        return cls(
            domain=domain,
            axes=axes,
            transform=transform,
            compress=compress,
            output=tuple(output) if isinstance(output, list) else output,
            loss=loss if callable(loss) else None,
            sample_rate=_rate(network),
        )

    @property
    def plain(self) -> bool:
        """Whether the network maps this project's spectrograms to spectrograms, without conversion."""
        return self == Interface()

    @property
    def waveform(self) -> bool:
        return self.domain == "waveform"

    @property
    def ours(self) -> bool:
        """Whether signals are spectrograms of this project's transform."""
        return not self.waveform and self.transform is None

    @property
    def bins(self) -> int | None:
        """Number of bins of a signal; None for waveforms."""
        return None if self.waveform else self._frames.bins

    @property
    def step(self) -> int:
        """Samples between neighbouring points on a signal's time axis: the hop, or 1 for waveforms."""
        return 1 if self.waveform else self._frames.hop

    @property
    def window(self) -> int:
        """Samples that contribute to one point on a signal's time axis: the window, or 1 for waveforms."""
        return 1 if self.waveform else self._frames.samples

    @property
    def _frames(self) -> Transform:
        return spectral.OURS if self.transform is None else self.transform

    @property
    def place(self) -> str:
        """The name of a point on a signal's time axis: "frame" or "sample"."""
        return "sample" if self.waveform else "frame"

    def analyse(self, waves: Tensor) -> Tensor:
        """Convert waveforms `(batch, sample)` to a signal."""
        if self.waveform:
            return waves
        return spectral.stft(waves) if self.transform is None else self.transform.analyse(waves)

    def spectrum(self, signal: Tensor, samples: int | None = None) -> Tensor:
        """Convert a signal to this project's spectrogram `(batch, 257, frame)`.

        Args:
            samples: length of the waveform in between, if the network has its own transform.
        """
        if self.ours:
            return signal
        if self.transform is not None:
            signal = self.transform.synthesise(signal, samples)
        return spectral.stft(signal)

    def alike(self, samples: int) -> int:
        """The length by which to batch utterances: those with an equal value can share a batch unpadded."""
        return spectral.utterance_frames(samples) if self.ours else samples

    def whole(self, waves: Tensor) -> Tensor:
        """Convert whole utterances `(batch, sample)` to a signal."""
        return spectral.analyse(waves) if self.ours else self.analyse(waves)

    def utterance(self, signal: Tensor, samples: int) -> Tensor:
        """Convert a signal of `whole` back to waveforms `(batch, samples)`."""
        if self.ours:
            return spectral.synthesise(signal, samples)
        return signal if self.transform is None else self.transform.synthesise(signal, samples)

    def arguments(self, signal: Tensor) -> tuple[Tensor, ...]:
        """Convert a signal to the network's arguments."""
        if self.plain or self.waveform:
            return (permute_axes(signal, self.axes, "bt" if self.waveform else "bft"),)
        if self.domain == "spectrum":
            signal = signal if self.compress == 1 else compress(signal, self.compress)
            parts = torch.view_as_real(signal) if "2" in self.axes else signal
            return (permute_axes(parts, self.axes, "bft2" if "2" in self.axes else "bft"),)
        magnitude = permute_axes(power(signal.abs(), self.compress), self.axes, "bft")
        if self.domain == "magnitude":
            return (magnitude,)
        return magnitude, permute_axes(signal.angle(), self.axes, "bft")

    def enhanced(self, outputs: Any, noisy: Tensor) -> Tensor:
        """Extract the enhanced signal, of the noisy signal's shape, from the network's outputs.

        Raises:
            InputError: it is missing or has another shape.
        """
        if self.plain:
            return outputs
        parts = [self._part(outputs, name) for name in self._names]
        if self.waveform:
            return self._wave(parts[0], noisy)
        if self.domain == "magnitude":
            magnitude = self._undone(parts[0].float(), noisy.shape, "bft").clamp(min=0)
            return torch.polar(self._plain(magnitude), noisy.angle())
        if self.domain == "magnitude-phase":
            magnitude, phase = (self._undone(part.float(), noisy.shape, "bft") for part in parts)
            return torch.polar(self._plain(magnitude.clamp(min=0)), phase)
        if len(parts) == 2:
            axes = self.axes.replace("2", "")
            signal = torch.complex(*(self._undone(part.float(), noisy.shape, "bft", axes) for part in parts))
        elif "2" in self.axes and not parts[0].is_complex():
            both = self._undone(parts[0].float(), (*noisy.shape, 2), "bft2")
            signal = torch.view_as_complex(both.contiguous())
        else:
            signal = self._undone(parts[0], noisy.shape, "bft", self.axes.replace("2", ""))
        if not signal.is_complex():
            raise InputError(f"the network returns {_shape(signal)} for a spectrum; return a complex tensor")
        return signal if self.compress == 1 else compress(signal, 1 / self.compress)

    def outputs(self, network: nn.Module, signal: Tensor) -> Any:
        """Run a network on a signal and return its raw outputs."""
        return network(*self.arguments(signal))

    def __call__(self, network: nn.Module, signal: Tensor) -> Tensor:
        """Enhance a signal; same shape."""
        return self.enhanced(self.outputs(network, signal), signal)

    def loss_of(self, outputs: Any, clean: Tensor, noisy: Tensor) -> Tensor:
        """Compute the network's own loss, which gets the signals in the form of the network's arguments.

        Raises:
            InputError: the network has no loss of its own.
        """
        if self.loss is None:
            raise InputError(
                "the recipe weights the network's own loss, but this network has none; add loss(outputs, "
                "clean), or leave out recipe.losses.network"
            )
        given = [a[0] if len(a) == 1 else a for a in (self.arguments(clean), self.arguments(noisy))]
        return self.loss(outputs, *given[: 2 if _takes(self.loss, 3) else 1])

    def _plain(self, magnitude: Tensor) -> Tensor:
        """Undo the compression of magnitudes; those below `UNDERFLOW` become 0, with a gradient of 0."""
        plain = magnitude ** (1 / self.compress)
        return torch.where(plain.detach() < UNDERFLOW, torch.zeros_like(plain), plain)

    @property
    def _names(self) -> tuple[Any, ...]:
        return self.output if isinstance(self.output, tuple) else (self.output,)

    def _part(self, outputs: Any, name: Any) -> Tensor:
        if name is None:
            part = outputs
        elif isinstance(outputs, Tensor):
            raise InputError(f"the network returns one tensor, {_shape(outputs)}, without output {name!r}")
        else:
            try:
                part = outputs[name]
            except (KeyError, IndexError, TypeError):
                known = (
                    f"keys {', '.join(map(str, outputs))}"
                    if isinstance(outputs, Mapping)
                    else _shape(outputs)
                )
                raise InputError(f"the network has no output {name!r}; it returns {known}") from None
        if not isinstance(part, Tensor):
            raise InputError(
                f"the network returns {_shape(part)}; set output to the enhanced signal's key or index"
            )
        return part

    def _wave(self, wave: Tensor, noisy: Tensor) -> Tensor:
        samples = noisy.shape[-1]
        items = len(wave) if wave.dim() else 0
        if wave.is_complex() or items != len(noisy) or abs(wave.numel() // items - samples) > LONGER:
            raise InputError(f"the network returns {_shape(wave)} for waveforms {tuple(noisy.shape)}")
        given = wave.float().reshape(items, -1)
        return nn.functional.pad(given[:, :samples], (0, max(samples - given.shape[-1], 0)))

    def _undone(self, part: Tensor, shape: tuple[int, ...], have: str, axes: str | None = None) -> Tensor:
        """Bring a tensor from the network's order of axes to the order `have`, and check its `shape`."""
        axes = self.axes if axes is None else axes
        sizes = dict(zip(have, shape, strict=True)) | {"1": 1}
        wanted = [sizes[axis] for axis in axes]
        if [s for s in part.shape if s != 1] != [s for s in wanted if s != 1]:
            raise InputError(f"the network returns {_shape(part)}, expected {tuple(wanted)} ({axes})")
        order = axes.replace("1", "")
        return part.reshape([sizes[axis] for axis in order]).permute([order.index(axis) for axis in have])


def permute_axes(part: Tensor, axes: str, have: str) -> Tensor:
    """Permute a tensor from the order `have` to `axes`; each 1 in `axes` inserts an axis of length 1."""
    if axes == have:
        return part
    part = part.permute([have.index(axis) for axis in axes if axis != "1"])
    for place, axis in enumerate(axes):
        part = part.unsqueeze(place) if axis == "1" else part
    return part.contiguous()


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function takes `count` positional arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    return True


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return (
        f"{type(value).__name__} of {len(value)}"
        if isinstance(value, tuple | list | dict)
        else type(value).__name__
    )
