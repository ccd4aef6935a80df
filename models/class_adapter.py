"""Adapts a network class from a file, without a plug-in: guesses its arguments, inputs and outputs."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .config import ModelConfig
from .errors import InputError, listed, told
from .interface import Interface, declare
from .parts import ARCHITECTURES
from .plugins import make_importable, trust_class, trusted_roots
from .registry import suggestion
from .transform import Transform

SIZES = {
    512: ("n_fft", "nfft", "fft_len", "fft_size", "win_len", "win_length", "win_size", "window_size"),
    128: ("hop", "hop_len", "hop_length", "hop_size", "win_inc"),
    257: ("n_freqs", "num_freqs", "n_freq", "num_freq", "freq_bins", "n_bins", "num_bins", "num_features"),
    16_000: ("sample_rate", "sampling_rate", "sr", "fs"),
}
"""Value -> names of the arguments that get it if they have no default."""
FORMS = (
    *(("spectrum", axes) for axes in ("bft", "bft2", "b2ft", "b2tf", "btf")),
    *(("waveform", axes) for axes in ("bt", "b1t")),
    *(("magnitude", axes) for axes in ("bft", "btf", "b1ft", "b1tf")),
    ("magnitude-phase", "bft"),
)
"""Domains and axes, in the order in which they are tried."""
HINTS = {"waveform": ("wav", "audio", "mix", "signal", "speech", "sample"), "magnitude": ("mag",)}
"""Domain -> substrings of the name of `forward`'s first argument; on a match, the domain is tried first."""
TRANSFORMS = (None, Transform(320, 160), Transform(400, 100), Transform(256, 128), Transform(512, 256))
LIKELY = ("enh", "est", "clean", "wav", "spec", "out")
"""Outputs whose name contains one of these are tried first."""
SAID = ("domain", "axes", "compress", "output")
"""Settings that declare the network's interface, if the class has no argument of that name."""


@dataclass(frozen=True)
class FromClass:
    """The configuration for a class, and a sentence on each guess."""

    config: ModelConfig
    told: tuple[str, ...]


def class_of_file(text: str, settings: Mapping[str, Any] | None = None, *, named: bool = True) -> FromClass:
    """Register a class of a file as an architecture.

    Args:
        text: `path/to/file.py:Class`.
        settings: arguments of the class by name (`h.width` is an attribute of its argument `h`), or
            declarations (`SAID`).
        named: whether the user has named the file and so trusts its code; false if only a plan mentions it.

    Raises:
        InputError: the class does not exist, its code is not trusted, it cannot be imported or built, or it
            does not run with any known form of input.
    """
    settings = dict(settings or {})
    with redirect_stdout(sys.stderr):
        kind = _kind(text, named)
        known = inspect.signature(kind).parameters
        said = {n: settings.pop(n) for n in SAID if n in settings and n not in known}
        options, words = _arguments(kind, settings)

        def build(config: ModelConfig) -> nn.Module:
            given = _nested(config.options)
            takes = [n for n, p in known.items() if "ModelConfig" in str(p.annotation)]
            network = kind(**given, **dict.fromkeys(takes, config))
            return declare(network, **said) if said else network

        name, count = text, 1
        while name in ARCHITECTURES:
            count += 1
            name = f"{text} ({count})"
        ARCHITECTURES.register(name, build)
        config = ModelConfig(architecture=name, options=options)
        try:
            torch.manual_seed(0)
            network = build(config)
        except Exception as error:
            raise InputError(f"{text} cannot be built: {told(error)}") from error
        if Interface.of(network).plain and not said:
            guess, more = _guess(network.eval(), _transform(known, options))
            said |= guess
            words += more
    return FromClass(config, tuple(words))


def _kind(text: str, named: bool) -> type[nn.Module]:
    path, _, name = text.rpartition(":")
    file = Path(path).expanduser().absolute()
    if not name:
        raise InputError(f"{text!r} does not name a class; write path/to/file.py:Class")
    if not file.is_file():
        raise InputError(f"{text}: the file {path} does not exist")
    if named:
        trust_class(file)
    module = _imported(file)
    kind = getattr(module, name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        known = [n for n, k in vars(module).items() if isinstance(k, type) and issubclass(k, nn.Module)]
        raise InputError(f"{file} has no network class {name!r}{suggestion(name, known)}")
    return kind


def _imported(file: Path) -> ModuleType:
    """Import a file as a module, from the first trusted folder from which this succeeds."""
    first: Exception | None = None
    for root in trusted_roots(file):
        before, path = set(sys.modules), list(sys.path)
        make_importable(root)
        sys.path.insert(0, str(root))
        try:
            module = import_module(".".join(file.relative_to(root).with_suffix("").parts))
            if (origin := Path(module.__file__ or "").resolve()) != file.resolve():
                raise ImportError(f"{module.__name__!r} is {origin} in this process; rename one")
            sys.path.remove(str(root))
            return module
        except Exception as error:
            first = first or error
            sys.path[:] = path
            for name in set(sys.modules) - before:
                if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(root)):
                    del sys.modules[name]
    assert first is not None
    raise InputError(f"{file} fails when imported: {told(first)}") from first


def _arguments(kind: type[nn.Module], given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Options for the arguments of a class, and a sentence on each guess."""
    parameters = inspect.signature(kind).parameters
    named = {n: p for n, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    form = f"{kind.__name__}{inspect.signature(kind)}"
    takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    for name in given:
        if name.split(".")[0] not in named and not takes_any:
            raise InputError(f"{form} has no argument {name!r}{suggestion(name, named)}")
    options = {n: json.dumps(v) if isinstance(v, list | dict) or v is None else v for n, v in given.items()}
    told, missing = [], []
    for name, parameter in named.items():
        have = any(n.split(".")[0] == name for n in given)
        if have or parameter.default is not parameter.empty or "ModelConfig" in str(parameter.annotation):
            continue
        size = next((size for size, names in SIZES.items() if name.lower() in names), None)
        if size is None:
            missing.append(name)
        else:
            options[name] = size
            told.append(f"{name}={size} is guessed from its name")
    if missing:
        more = " ".join(f"--set {name}=..." for name in missing)
        raise InputError(f"{form}: {', '.join(missing)} has no default; give {more}")
    return options, told


class Settings(dict[str, Any]):
    """A dictionary whose items are also attributes, as networks often expect their settings."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Turn options into arguments: parse JSON, and nest dotted names in `Settings`."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, str) and (value == "null" or value.startswith(("[", "{"))):
            with suppress(ValueError):  # as of a placeholder, "{seed}"
                value = json.loads(value)
        *groups, last = name.split(".")
        place = found
        for group in groups:
            place = place.setdefault(group, Settings())
        place[last] = value
    return found


def _transform(known: Mapping[str, inspect.Parameter], options: Mapping[str, Any]) -> Transform | None:
    """The transform given by the FFT size and hop among the arguments of a class; None if one is missing."""
    values = {name: options.get(name, parameter.default) for name, parameter in known.items()}
    n_fft, hop = (
        next((v for n, v in values.items() if n in SIZES[size] and isinstance(v, int)), None)
        for size in (512, 128)
    )
    try:
        return None if n_fft is None or hop is None else Transform(n_fft, hop)
    except InputError:
        return None


def _guess(network: nn.Module, transform: Transform | None) -> tuple[dict[str, Any], list[str]]:
    """The first input and output form that the network accepts (its own transform is tried first), and a
    sentence on each guess.

    Raises:
        InputError: the network accepts none of the forms.
    """
    first = next(iter(inspect.signature(network.forward).parameters), "").lower()
    hinted = [domain for domain, words in HINTS.items() if any(word in first for word in words)]
    forms = sorted(FORMS, key=lambda form: form[0] not in hinted)
    found: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for own in dict.fromkeys([*([transform] if transform not in (None, Transform()) else []), *TRANSFORMS]):
        for domain, axes in forms:
            if domain == "waveform" and own is not None:
                continue
            said = {"domain": domain, "axes": axes, **({"transform": own} if own else {})}
            try:
                output = _output(network, said)
            except Exception as error:
                failed.setdefault(f"{domain} {axes}", _short(error))
            else:
                found.append({**said, **({} if output is None else {"output": output})})
        if found:
            break
    if not found:
        raise InputError(
            f"{type(network).__name__} does not accept any of the input and output forms that were tried; "
            + "; ".join(f"{form}: {why}" for form, why in failed.items())
            + "; set --set domain=... --set axes=..., or write a plug-in (ablate init-plugin)"
        )
    others = [_words(said) for said in found[1:]]
    told = [f"guessed its input and output form: {_words(found[0])} (it runs with it)"]
    if others:
        told[0] += f"; it also runs with {listed(others, 3)} (choose with --set domain=... --set axes=...)"
    if "output" in found[0]:
        told.append(f"its enhanced signal is output {found[0]['output']!r}: guessed from its shape")
    return found[0], told


def _words(said: Mapping[str, Any]) -> str:
    transform = said.get("transform")
    more = f" of {transform.n_fft} points, hop {transform.hop}" if transform else ""
    return f"{said['domain']} {said['axes']}{more}"


def _short(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 90 else f"{text[:87]}..."


@torch.no_grad()
def _output(network: nn.Module, said: Mapping[str, Any]) -> Any:
    """The key or index of the enhanced signal among the outputs, tested with two batch sizes and lengths.

    Raises:
        InputError: no output fits.
    """
    names: list[Any] | None = None
    for items, samples in ((3, 9600), (1, 7168)):
        interface = Interface(**said)
        signal = interface.analyse(torch.linspace(-9, 9, items * samples).view(items, -1).sin())
        outputs = interface.outputs(network, signal)
        names = list(_names(outputs, said)) if names is None else names
        right, why = [], InputError("it returns nothing")
        for name in names:
            try:
                _alike(Interface(**said, output=name).enhanced(outputs, signal), signal)
            except InputError as error:
                why = error
            else:
                right.append(name)
        if not right:
            raise why
        names = right
    return names[0] if names else None


def _alike(enhanced: Any, signal: Tensor) -> None:
    right = isinstance(enhanced, Tensor) and enhanced.shape == signal.shape
    if not right or enhanced.is_complex() != signal.is_complex():
        what = f"{enhanced.dtype} {tuple(enhanced.shape)}" if isinstance(enhanced, Tensor) else type(enhanced)
        raise InputError(f"it returns {what} for {tuple(signal.shape)}")


def _names(outputs: Any, said: Mapping[str, Any]) -> Iterator[Any]:
    """Keys or indices of possible enhanced signals, likely ones first; None for the output itself."""
    if said["domain"] == "magnitude-phase":
        yield (0, 1)
    elif isinstance(outputs, Tensor):
        yield None
    elif isinstance(outputs, Mapping):
        keys = [key for key in outputs if isinstance(key, str)]
        yield from sorted(keys, key=lambda key: not any(word in key.lower() for word in LIKELY))
    elif isinstance(outputs, Sequence):
        yield from range(len(outputs))
        if "2" in said["axes"] and len(outputs) > 1:
            yield (0, 1)
