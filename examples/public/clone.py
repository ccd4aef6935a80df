"""Networks out of a clone of a public repository: what the adapters of this folder have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from torch import nn

from ablate.models import ARCHITECTURES, PRESETS, ModelConfig, declare


def source(config: ModelConfig) -> Path:
    """The folder of the clone, from the network's option `source`.

    Raises:
        InputError: it is not given, or no folder.
    """
    return config.folder("source")


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


def register(name: str, make: Callable[[ModelConfig], nn.Module], *, direction: str, **said: Any) -> None:
    """Make a network an architecture and a preset of its own.

    Args:
        direction: what its authors say.
        said: what it takes and gives, as `declare` has it.
    """
    ARCHITECTURES.register(name, lambda config: declare(make(config), **said))
    PRESETS[name] = ModelConfig(
        architecture=name,
        direction=direction,  # type: ignore[arg-type]
        options={"source": "path:"},
    )


def scaled(config: ModelConfig, width: int, multiple: int = 1) -> int:
    """A width times the network's option `width` (`--option width=0.25`), as a multiple of a number."""
    share = float(config.options.get("width", 1))
    return max(1, round(width * share / multiple)) * multiple


def settings(**fields: Any) -> SimpleNamespace:
    return SimpleNamespace(**fields)
