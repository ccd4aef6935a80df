"""The code that a training of one's own is: which files, their digest, a copy, and a folder to run it in.

The copy lies under the root by its digest, once for all runs, and is made when a study is planned. A run's
own folder has copies of these files; whatever else is in the user's folder is linked beside them.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path

from ablate.models.errors import InputError

from ..files import locked, replacing_folder
from ..rundir import file_digest

SOURCES = frozenset(
    (
        *(".py", ".pyx", ".pyi", ".ipynb", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".jl", ".lua"),
        *(".m", ".r", ".rs", ".sh", ".ini", ".cfg", ".json", ".toml", ".yaml", ".yml"),
    )
)
"""Endings of source files, which decide a result where a study names no `code`."""
MOST_FILES, MOST_BYTES = 5000, 200 << 20
"""More code than this is a mistake: a data folder among it."""


def find_code(folder: Path, patterns: Collection[str], apart: Iterable[Path] = ()) -> dict[str, Path]:
    """The files that decide a result, by their path in the folder, sorted.

    Hidden folders, virtual environments and byte code are no code.

    Args:
        patterns: `*.yaml`, `src/**/*.py`; none: source files, where git keeps the folder those it does not
            ignore.
        apart: files and folders that are none of it: the study file, the root.

    Raises:
        InputError: there is no such folder, a pattern matches nothing, or they match too much.
    """
    if not folder.is_dir():
        raise InputError(f"train.folder {folder}: no such folder")
    folder, away = folder.resolve(), {path.resolve() for path in apart}
    there = {name: folder / name for name in _walk(folder, away)}
    if patterns:
        found: dict[str, Path] = {}
        for pattern in patterns:
            if pattern.startswith("/") or ".." in Path(pattern).parts:
                raise InputError(f"train.code {pattern!r}: a pattern stays within the folder {folder}")
            matched = {name: path for name, path in there.items() if _matches(name, pattern)}
            if not matched:
                raise InputError(f"train.code {pattern!r} matches no file in {folder}")
            found |= matched
    else:
        kept = _kept_by_git(folder)
        found = {
            name: path
            for name, path in there.items()
            if path.suffix.lower() in SOURCES and (kept is None or name in kept) and not _is_study(path)
        }
    found = {name: path for name, path in sorted(found.items()) if path.is_file()}
    if not found:
        raise InputError(f"{folder} holds no source file; name what decides the result with train.code")
    size = sum(path.stat().st_size for path in found.values())
    if len(found) > MOST_FILES or size > MOST_BYTES:
        raise InputError(
            f"train.code matches {len(found):,} files of {size / 1e6:,.0f} MB in {folder}, "
            'too much for code; name less, e.g. code: ["**/*.py", "*.yaml"]'
        )
    return found


def _is_study(path: Path) -> bool:
    """Whether a file is a study file, of this or another study."""
    if path.suffix.lower() not in (".yaml", ".yml"):
        return False
    lines = path.read_text(errors="replace").splitlines()
    return {"train:", "factors:"} <= {line.rstrip() for line in lines}


def _walk(folder: Path, away: Collection[Path]) -> Iterator[str]:
    """The files below a folder that may be code."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = [name for name in folders if not _no_code(here / name, away)]
        for name in files:
            path = here / name
            if path not in away:
                yield path.relative_to(folder).as_posix()


def _no_code(folder: Path, away: Collection[Path]) -> bool:
    hidden = folder.name.startswith(".") or folder.name in ("__pycache__", "node_modules")
    return hidden or (folder / "pyvenv.cfg").exists() or folder in away


def _matches(name: str, pattern: str) -> bool:
    return _match(Path(name).parts, Path(pattern).parts)


def _match(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns or not parts:
        return not parts and set(patterns) <= {"**"}
    if patterns[0] == "**":
        return _match(parts, patterns[1:]) or _match(parts[1:], patterns)
    return fnmatchcase(parts[0], patterns[0]) and _match(parts[1:], patterns[1:])


def _kept_by_git(folder: Path) -> frozenset[str] | None:
    """Files that git tracks or would, by their path in the folder; none: it is no folder of git's."""
    command = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return frozenset(filter(None, told.stdout.split("\0"))) or None


def digest_of(files: dict[str, Path]) -> str:
    """sha256 of names and contents, in hexadecimal."""
    total = sha256()
    for name, path in sorted(files.items()):
        total.update(f"{name}\n{file_digest(path)}\n".encode())
    return total.hexdigest()


def kept_files(copy: Path) -> dict[str, Path]:
    """The files of a copy by their path in it."""
    return {str(path.relative_to(copy)): path for path in sorted(copy.rglob("*")) if path.is_file()}


def keep(files: dict[str, Path], digest: str, copies: Path) -> Path:
    """Copy code to `<copies>/<digest>`, unless it is there.

    Raises:
        InputError: the files have another digest by now.
    """
    copy = copies / digest
    with locked(copies / "lock"):
        if copy.exists():
            return copy
        with replacing_folder(copy) as partial:
            _copy(files, partial)
            if (found := digest_of(kept_files(partial))) != digest:
                raise InputError(
                    f"the code was edited while the study was planned: digest {digest[:12]}, "
                    f"now {found[:12]}; run again"
                )
    return copy


def _copy(files: dict[str, Path], target: Path) -> None:
    for name, path in files.items():
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place)
        place.chmod(place.stat().st_mode | stat.S_IWUSR)


def lay_out(copy: Path, digest: str, folder: Path, patterns: Collection[str], work: Path, root: Path) -> None:
    """Make a run's folder anew: the code as it was planned, and links to the rest of the user's folder.

    Args:
        copy: of the code.
        digest: that it must have.
        folder: the user's, of which nothing that is code now is linked.
        root: of all runs; not linked either.

    Raises:
        InputError: the copy is gone or is another.
    """
    files = kept_files(copy)
    if not files or digest_of(files) != digest:
        raise InputError(
            f"the code of this run, {copy}, is {'another by now' if files else 'gone'}; plan the study again"
        )
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    _copy(files, work)
    if not folder.is_dir():
        return
    try:
        later = set(find_code(folder, patterns, [root])) - set(files)
    except InputError:
        later = set()
    _link(folder, work, later, folder, root.resolve())


def _link(place: Path, target: Path, later: set[str], folder: Path, root: Path) -> None:
    """Link what of a folder the copy lacks; a folder that holds code is gone through, not linked."""
    code = {Path(name) for name in later}
    with_code = {parent for name in code for parent in name.parents}
    for entry in sorted(place.iterdir()):
        name, own = entry.relative_to(folder), target / entry.name
        if name in code or entry.name == "__pycache__" or entry.resolve() == root:
            continue
        inside = own.is_dir() or name in with_code or entry.resolve() in root.parents
        if entry.is_dir() and not entry.is_symlink() and inside:
            own.mkdir(exist_ok=True)
            _link(entry, own, later, folder, root)
        elif not own.exists() and not own.is_symlink():
            own.symlink_to(entry.absolute(), target_is_directory=entry.is_dir())


def written_beside(work: Path, copy: Path, most: int = 5) -> list[str]:
    """Files in a run's folder that a command has put there."""
    there = set(kept_files(copy))
    found = []
    for place, folders, files in os.walk(work):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in files:
            path = Path(place, name)
            relative = str(path.relative_to(work))
            if relative not in there and not path.is_symlink():
                found.append(relative)
    return sorted(found)[:most]
