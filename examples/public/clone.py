"""Networks out of a clone of a public repository: what the adapters of this folder have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ablate.models import ARCHITECTURES, PRESETS, ModelConfig
from ablate.models.errors import InputError
from ablate.models.spectral import istft, stft


def source(config: ModelConfig) -> Path:
    """The folder of the clone, from the network's option `source`.

    Raises:
        InputError: it is not given, or no folder.
    """
    path = Path(str(config.options.get("source", ""))).expanduser()
    if path == Path() or not path.is_dir():
        raise InputError(f"no clone at {str(path)!r}; give its folder, --option source=PATH")
    return path.resolve()


@contextmanager
def importing(
    config: ModelConfig, *folders: str, stand_ins: Mapping[str, Mapping[str, Any]] | None = None
) -> Iterator[None]:
    """Import from folders of the clone inside; names that other code uses too are free again afterwards.

    Args:
        stand_ins: module -> what it holds, for modules that a network imports and need not have here.
    """
    paths = [str(source(config) / folder) for folder in folders or ("",)]
    before, path = dict(sys.modules), list(sys.path)
    tops = {p.stem for folder in paths for p in Path(folder).iterdir()}
    for name in [n for n in sys.modules if n.split(".")[0] in tops]:
        del sys.modules[name]
    sys.path[:] = [*paths, *(p for p in path if not _holds(Path(p), tops))]
    for name, content in (stand_ins or {}).items():
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = []  # type: ignore[attr-defined]
        vars(sys.modules[name]).update(content)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - set(before):
            file = getattr(sys.modules[name], "__file__", None) or ""
            if name in (stand_ins or {}) or any(file.startswith(p) for p in paths):
                del sys.modules[name]
        sys.modules.update({n: m for n, m in before.items() if n not in sys.modules})


def _holds(folder: Path, names: set[str]) -> bool:
    return any((folder / name / "__init__.py").exists() for name in names)


def attribute(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


def register(name: str, make: Callable[[ModelConfig], nn.Module], *, direction: str) -> None:
    """Make a network an architecture and a preset of its own; `direction` is what its authors say."""
    ARCHITECTURES.register(name, make)
    PRESETS[name] = ModelConfig(architecture=name, direction=direction)  # type: ignore[arg-type]


class MagnitudePhase(nn.Module):
    """A network of compressed magnitude and phase, `(batch, bin, frame)`, that returns both first."""

    def __init__(self, net: nn.Module, exponent: float = 0.3) -> None:
        super().__init__()
        self.net, self.exponent = net, exponent

    def forward(self, noisy: Tensor) -> Tensor:
        size = torch.view_as_real(noisy).square().sum(-1).add(1e-9).sqrt()
        phase = torch.atan2(noisy.imag + 1e-10, noisy.real + 1e-5)
        magnitude, angle = self.net(size.pow(self.exponent), phase)[:2]
        return torch.polar(magnitude.abs().add(1e-9).pow(1 / self.exponent), angle)


class Pairs(nn.Module):
    """A network of real and imaginary parts `(batch, bin, frame, 2)`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, noisy: Tensor) -> Tensor:
        return torch.view_as_complex(self.net(torch.view_as_real(noisy)).contiguous())


class Waveform(nn.Module):
    """A network of waveforms `(batch, sample)` between our transforms, which are centred: it looks ahead.

    Args:
        call: how the network is called, and what of its output is the enhanced wave.
    """

    looks_ahead = True

    def __init__(self, net: nn.Module, call: Callable[[nn.Module, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.net, self.call = net, call or (lambda net, wave: net(wave))

    def forward(self, noisy: Tensor) -> Tensor:
        wave = istft(noisy)
        enhanced = self.call(self.net, wave).reshape(len(wave), -1)
        enhanced = nn.functional.pad(enhanced, (0, max(wave.shape[-1] - enhanced.shape[-1], 0)))
        return stft(enhanced[:, : wave.shape[-1]])


def settings(**fields: Any) -> SimpleNamespace:
    return SimpleNamespace(**fields)
