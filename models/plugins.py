"""A user's own parts: Python files that register what they define. Needs no torch by itself."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def load(paths: Iterable[str | Path]) -> list[ModuleType]:
    """Import Python files, each under a name of its own; a file imported before is not run again.

    Args:
        paths: of `.py` files, which register parts (`models.CORES.register(...)`) when imported.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a path is no Python file, or the file fails when imported.
    """
    return [_load(Path(path).expanduser().absolute()) for path in paths]


def _load(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"no plugin at {path}")
    if path.suffix != ".py":
        raise ValueError(f"plugin {path} is no Python file; give a file that ends in .py")
    path = path.resolve()
    name = f"ablate_plugin_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"plugin {path} fails when imported: {type(error).__name__}: {error}") from error
    return module
