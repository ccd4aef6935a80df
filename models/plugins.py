"""Plug-ins: Python files of the user that register parts. This module itself needs no torch.

A plug-in's folder is searched after the standard library and before installed packages. A plug-in's code is
its file and the files in its folder that it imports; the digest of that code is part of a run's signature.
"""

from __future__ import annotations

import ast
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from hashlib import sha256
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from . import trust
from .errors import InputError

_PACKAGES = ("models", "training", "ablations", "studies", "reports")
CODE = (".py", ".yaml", ".yml", ".toml", ".json")
"""Suffixes of the files that count as a folder's code."""
_HERE = Path(__file__).resolve().parents[1]
Planned = Mapping[str, str | None] | Sequence[str]
_loaded: dict[Path, tuple[ModuleType, str]] = {}
"""File -> its module, and the digest of its code at import."""


def load(plugins: Iterable[str | Path]) -> list[ModuleType]:
    """Import and trust Python files that the user has named. An imported file does not run again.

    Args:
        plugins: paths of `.py` files that register parts (`ablate.models.CORES.register(...)`).

    Raises:
        InputError: the file does not exist or is not a Python file, its import fails, or it imports this
            project or another folder instead of its own.
    """
    modules = []
    for path in map(_resolved, plugins):
        module, digest = _load(path)
        trust.grant(path, digest)
        modules.append(module)
    return modules


def load_planned(plugins: Planned) -> list[ModuleType]:
    """Import the plug-ins that a plan or a run directory mentions, if the user trusts their code.

    Args:
        plugins: path -> digest of its code when planned. Without a digest (None, or a list of paths), a
            plug-in is trusted only if this process has already imported it.

    Raises:
        InputError: as in `load`, or the code has changed or is not trusted; it then does not run.
    """
    modules = []
    digests = plugins if isinstance(plugins, Mapping) else dict.fromkeys(plugins)
    for path, planned in digests.items():
        file = _resolved(path)
        try:
            digest = _loaded[file][1] if file in _loaded else code_digest(file)
        except (SyntaxError, ValueError) as error:
            raise InputError(f"plug-in {path} is not valid Python: {error}") from None
        if planned is not None and digest != planned:
            raise InputError(
                f"the code of plug-in {path} has changed since this run was planned (digest "
                f"{digest[:12]}, planned {planned[:12]}); restore it, or plan the run under another name"
            )
        if file not in _loaded and (planned is None or not trust.is_trusted(file, digest)):
            raise InputError(
                f"the code of plug-in {path} is not trusted: digest {digest[:12]}; "
                f"read it, then trust it with ablate audit --plugin {path}"
            )
        modules.append(_load(file)[0])
    return modules


def digests(paths: Iterable[str | Path]) -> dict[str, str]:
    """Import and trust plug-ins as `load` does; return absolute path -> digest of the code.

    Raises:
        InputError: as in `load`, or the code has changed since this process imported it.
    """
    found = {}
    for path in map(_resolved, paths):
        load([path])
        found[str(path)] = _loaded[path][1]
        if code_digest(path) != found[str(path)]:
            raise InputError(
                f"the code of plug-in {path} has changed since this process imported it; start again"
            )
    return found


def code_digest(path: Path, root: Path | None = None) -> str:
    """sha256, in hexadecimal, of the contents and relative paths of a plug-in's `sources`."""
    return _digest(sources(path, root), root or path.parent)


def folder_digest(folder: Path) -> str:
    """sha256, in hexadecimal, of the contents and relative paths of a folder's code (`CODE`)."""

    def hidden(file: Path) -> bool:
        return any(part.startswith(".") or part == "__pycache__" for part in file.relative_to(folder).parts)

    found = (f for f in folder.rglob("*") if f.suffix in CODE and not hidden(f) and f.is_file())
    return _digest(found, folder)


def _digest(files: Iterable[Path], root: Path) -> str:
    total = sha256()
    for file in sorted(files):
        name = file.relative_to(root).as_posix()
        total.update(f"{name}\n{sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def sources(path: Path, root: Path | None = None) -> dict[Path, str]:
    """File -> module name, for the plug-in and the files of its folder that it imports, directly or not.

    All import statements count, including those in functions; computed names do not.

    Args:
        root: folder from which the plug-in is imported; default: its own.

    Raises:
        SyntaxError: a file is not valid Python.
    """
    found: dict[Path, str] = {}
    root = root or path.parent
    module = ".".join(path.relative_to(root).with_suffix("").parts)
    waiting = [(path, module), *(_files(module, root) if root != path.parent else ())]
    while waiting:
        file, module = waiting.pop()
        if file not in found:
            found[file] = module
            for name in imports(file, module):
                waiting += _files(name, root)
    return found


def imports(file: Path, module: str) -> Iterator[str]:
    """The dotted names in a file's import statements; for `from a import b`, both `a` and `a.b`."""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_bytes(), str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def _files(name: str, folder: Path) -> Iterator[tuple[Path, str]]:
    """The files in a folder that run when a dotted name is imported, each with its module name."""
    parts = name.split(".")
    if parts[0] == "ablate" or parts[0] in sys.stdlib_module_names:
        return
    for count in range(1, len(parts) + 1):
        place = folder.joinpath(*parts[:count])
        for file in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if file.is_file():
                yield file, ".".join(parts[:count])
                break


def _resolved(path: str | Path) -> Path:
    path = Path(path).expanduser().absolute()
    if not path.is_file():
        raise InputError(f"plug-in {path} does not exist")
    if path.suffix != ".py":
        raise InputError(f"plug-in {path} is not a Python file; its name must end in .py")
    return path.resolve()


def _load(path: str | Path) -> tuple[ModuleType, str]:
    path = _resolved(path)
    if path not in _loaded:
        try:
            digest = code_digest(path)
            make_importable(path.parent)
            _check_rooms(path)
            module = _import(path)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"plug-in {path} fails when imported: {type(error).__name__}: {error}{_hint(error)}"
            ) from error
        _check_origins(path)
        _loaded[path] = module, digest
    return _loaded[path]


def _import(path: Path) -> ModuleType:
    name = f"ablate_plugin_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    try:
        with redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def trust_class(file: Path) -> None:
    """Trust the code of a file whose class the user has named, for each folder it may be imported from."""
    for root in roots(file):
        with suppress(SyntaxError):
            trust.grant(file, code_digest(file, root))


def trusted_roots(file: Path) -> list[Path]:
    """The folders from which a file may be imported: those for which the user trusts its code.

    Raises:
        InputError: the user trusts it from no folder.
    """
    found = []
    for root in roots(file):
        with suppress(SyntaxError):
            if trust.is_trusted(file, code_digest(file, root)):
                found.append(root)
    if not found:
        raise InputError(
            f"the code of {file} is not trusted; read it, then name it: ablate audit {file}:CLASS"
        )
    return found


def roots(file: Path) -> list[Path]:
    """The folders above a file, first those that resolve most of its imports, then the nearest."""
    above = [folder for folder in list(file.parents)[:5] if folder != folder.parent]
    found: dict[Path, int] = {}
    for root in above:
        module = ".".join(file.relative_to(root).with_suffix("").parts)
        try:
            names = {name.split(".")[0] for name in imports(file, module)} - set(sys.stdlib_module_names)
        except SyntaxError as error:
            raise InputError(f"{file} fails when imported: SyntaxError: {error}") from error
        names -= {"torch", "numpy", "ablate", ""}
        found[root] = sum((root / n).is_dir() or (root / f"{n}.py").is_file() for n in names)
    return sorted(above, key=lambda root: -found[root])


def make_importable(folder: Path) -> None:
    """Put a folder on `sys.path`, after the standard library and before installed packages."""
    if str(folder) not in sys.path:
        library = Path(sysconfig.get_paths()["stdlib"])
        standard = (str(library), str(library / "lib-dynload"))
        last = max((i for i, entry in enumerate(sys.path) if entry in standard), default=-1)
        sys.path.insert(last + 1, str(folder))


def _check_rooms(path: Path) -> None:
    """Raise InputError if a plug-in imports this project's packages without the prefix `ablate.`."""
    for file, module in sources(path).items():
        for package in {name.split(".")[0] for name in imports(file, module)} & set(_PACKAGES):
            if _is_ours_or_missing(package):
                beside = (path.parent / package).resolve()
                meant = (
                    f", or start in a folder where {beside} is found first"
                    if beside.exists() and beside != _HERE / package
                    else ""
                )
                raise InputError(
                    f"plug-in {file} imports {package!r}, which is now `ablate.{package}`; write `from "
                    f"ablate.{package} import ...`{meant}"
                )


def _is_ours_or_missing(package: str) -> bool:
    known = sys.modules.get(package)
    spec = known.__spec__ if known else find_spec(package)
    if known is None and spec is None:
        return True
    places = getattr(known, "__path__", None) or (spec and spec.submodule_search_locations) or ()
    return any(Path(place).resolve() == _HERE / package for place in places)


def _check_origins(path: Path) -> None:
    """Raise InputError if a plug-in's import resolved to another file than the one in its folder."""
    for file, module in sources(path).items():
        origin = getattr(sys.modules.get(module), "__file__", None)
        if file != path and origin is not None and Path(origin).resolve() != file.resolve():
            raise InputError(
                f"plug-in {path} imports {module!r}, which is {origin} in this process, not {file}; "
                "rename one of them, or start in another folder"
            )


def _hint(error: Exception) -> str:
    if isinstance(error, ImportError) and error.name and error.name.split(".")[0] in _PACKAGES:
        return f"; if it is a package of ablate, its name is now `ablate.{error.name}`"
    return ""


PATH = "path:"
"""Prefix of an option that names a folder. A preset declares one with `options={"source": "path:"}`."""


def existing_folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise InputError(f"folder {name!r} does not exist")
    return folder.resolve()


def with_digests(options: dict[str, Any]) -> dict[str, Any]:
    """Options in which each folder is given by its full path and the digest of its code."""

    def resolved(value: Any) -> Any:
        if not isinstance(value, str) or not value.startswith(PATH) or value == PATH:
            return value
        if re.fullmatch(r".+@[0-9a-f]{64}", value):
            return value
        folder = existing_folder(value.removeprefix(PATH))
        return f"{PATH}{folder}@{folder_digest(folder)}"

    return {key: resolved(value) for key, value in options.items()}
