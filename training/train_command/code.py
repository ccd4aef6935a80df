"""The code of a training command: its files, their digest, a copy, and a folder for each run.

The copy is stored under the root by its digest, once for all runs, when a study is planned. Each run's folder
gets copies of these files and links to the rest of the user's folder.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from hashlib import sha256
from itertools import islice
from pathlib import Path

from ablate.models.errors import InputError

from ..files import atomic_folder, locked
from ..rundir import file_digest
from .config import TrainingCommand

PROGRAMS = frozenset((".py", ".pyx", ".sh", ".c", ".cc", ".cpp", ".cu", ".jl", ".lua", ".m", ".r", ".rs"))
"""Suffixes of programs; a linked folder without one is data."""
SOURCES = PROGRAMS | {
    *(".pyi", ".ipynb", ".cuh", ".h", ".hpp", ".ini", ".cfg", ".json", ".toml", ".yaml", ".yml")
}
"""Suffixes of source files, which decide a result if a study names no `code`."""
OF_RUNS = frozenset((".pt", ".pth", ".th", ".ckpt", ".safetensors", ".onnx", ".log"))
"""Suffixes of weights and logs."""
MOST_FILES, MOST_BYTES = 5000, 200 << 20
"""More code than this is a mistake, such as a data folder."""
MOST_LOOKED_AT = 20_000
"""Files of a linked folder that are searched for a program."""


def find_code(folder: Path, patterns: Collection[str], apart: Iterable[Path] = ()) -> dict[str, Path]:
    """The files that decide a result, by their path in the folder, sorted.

    Excludes hidden folders, virtual environments and byte code.

    Args:
        patterns: `*.yaml`, `src/**/*.py`; none: source files, except those that git ignores.
        apart: files and folders to exclude: the study file, the root.

    Raises:
        InputError: the folder does not exist, a pattern matches nothing, or they match too much.
    """
    if not folder.is_dir():
        raise InputError(f"train.folder {folder} does not exist")
    folder, away = folder.resolve(), {path.resolve() for path in apart}
    there = dict(_walk(folder, away))
    found: set[str] = set()
    for pattern in patterns:
        if pattern.startswith("/") or ".." in Path(pattern).parts:
            raise InputError(f"train.code {pattern!r} leaves the folder {folder}; use patterns within it")
        matched = {name for name in there if _matches(name, pattern)}
        if not matched:
            raise InputError(f"train.code {pattern!r} matches no file in {folder}")
        found |= matched
    if not patterns:
        kept = {root: _known_to_git(root) for root in set(there.values())}
        for name, root in there.items():
            path, known = folder / name, kept[root]
            source = path.suffix.lower() in SOURCES and not _is_study(path)
            if source and (known is None or path.relative_to(root).as_posix() in known):
                found.add(name)
    files = {name: folder / name for name in sorted(found) if (folder / name).is_file()}
    if not files:
        raise InputError(f"{folder} has no source files; name files that decide the result with train.code")
    size = sum(path.stat().st_size for path in files.values())
    if len(files) > MOST_FILES or size > MOST_BYTES:
        raise InputError(
            f"train.code matches {len(files):,} files of {size / 1e6:,.0f} MB in {folder}, "
            'too much for code; name less, e.g. code: ["**/*.py", "*.yaml"]'
        )
    return files


def _is_study(path: Path) -> bool:
    """Whether a file is a study file, of this or another study."""
    if path.suffix.lower() not in (".yaml", ".yml"):
        return False
    lines = path.read_text(errors="replace").splitlines()
    return {"train:", "factors:"} <= {line.rstrip() for line in lines}


def _walk(folder: Path, away: Collection[Path]) -> Iterator[tuple[str, Path]]:
    """The files below a folder that may be code, by their path in it, each with the folder whose git lists
    it: the folder itself, a submodule or other repository in it, or a linked folder."""
    roots = {folder: folder}
    for place, folders, files in os.walk(folder, followlinks=True):
        here = Path(place)
        root = roots.get(here) or roots[here.parent]
        root = roots[here] = here if ".git" in (*folders, *files) or here.is_symlink() else root
        folders[:] = [name for name in folders if not _no_code(here / name, away) and _entered(here / name)]
        for name in files:
            path = here / name
            if path not in away:
                yield path.relative_to(folder).as_posix(), root


def _entered(folder: Path) -> bool:
    """Whether a folder may have code; a link may if it contains programs and does not lead to a parent of
    itself."""
    if not folder.is_symlink():
        return True
    target = folder.resolve()
    if target in {parent.resolve() for parent in folder.parents}:
        return False
    files = (name for _, _, files in os.walk(target) for name in files)
    return any(Path(name).suffix.lower() in PROGRAMS for name in islice(files, MOST_LOOKED_AT))


def _no_code(folder: Path, away: Collection[Path] = ()) -> bool:
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


def _known_to_git(folder: Path) -> dict[str, bool] | None:
    """Files that git tracks (true) or would track, by their path in the folder; None outside a repository.

    Raises:
        InputError: git refuses to read it, e.g. because somebody else owns it.
    """
    folder = folder.resolve()
    if not any((place / ".git").exists() for place in (folder, *folder.parents)):
        return None
    command = ["git", "-C", str(folder), "ls-files", "-tz", "--cached", "--others", "--exclude-standard"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        why = " ".join(str(getattr(error, "stderr", None) or error).split())
        raise InputError(
            f"git cannot list the files of {folder} ({why}); fix this, for example with git config "
            f'--global --add safe.directory {folder}, or name the code, e.g. code: ["**/*.py"]'
        ) from None
    return {line[2:]: line[0] != "?" for line in told.stdout.split("\0") if line} or None


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
    """Copy code to `<copies>/<digest>`, unless it exists.

    Raises:
        InputError: the files have changed since their digest was taken.
    """
    copy = copies / digest
    with locked(copies / "lock"):
        if copy.exists():
            return copy
        with atomic_folder(copy) as partial:
            _copy(files, partial)
            if (found := digest_of(kept_files(partial))) != digest:
                raise InputError(
                    f"the code changed while the study was planned (digest {digest[:12]}, now "
                    f"{found[:12]}); run again"
                )
    return copy


def _copy(files: dict[str, Path], target: Path) -> None:
    for name, path in files.items():
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place)
        place.chmod(place.stat().st_mode | stat.S_IWUSR)


def lay_out(copy: Path, own: TrainingCommand, work: Path, root: Path) -> list[Path]:
    """Recreate a run's folder: the planned code, and links to the rest of the user's folder.

    Args:
        copy: of the code.
        root: of all runs; not linked.

    Returns:
        The linked files and folders of the user.

    Raises:
        InputError: the copy is missing or has changed.
    """
    files = kept_files(copy)
    if not files or digest_of(files) != own.digest:
        raise InputError(
            f"the code of this run, {copy}, {'changed' if files else 'is missing'}; plan it again"
        )
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    _copy(files, work)
    folder = Path(own.folder)
    linked, empty = arrange(own, root, files) if folder.is_dir() else ([], [])
    for name in empty:
        (work / name).mkdir(parents=True, exist_ok=True)
    for name in linked:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).symlink_to((folder / name).absolute())
    return [folder / name for name in linked]


def arrange(own: TrainingCommand, root: Path, files: Collection[str]) -> tuple[list[str], list[str]]:
    """The paths of a folder to link into every run, and the folders that each run gets empty.

    A folder without files, or with weights or logs that git does not track, is each run's own unless `links`
    names it: otherwise runs would start from each other's checkpoints.

    Args:
        files: of the planned code, which are neither.
    """
    linked: list[str] = []
    empty: list[str] = []
    folder, root = Path(own.folder).resolve(), root.resolve()
    code, tracked = set(files), set[str]()
    with suppress(InputError):
        code |= find_code(folder, own.patterns, [root]).keys()
        tracked = {name for name, is_tracked in (_known_to_git(folder) or {}).items() if is_tracked}
    with_code = {parent for name in code for parent in Path(name).parents}

    def of_run(path: Path) -> bool:
        known = path.suffix.lower() in OF_RUNS or path.name.startswith(("events.out.tfevents", "checkpoint"))
        return known and path.relative_to(folder).as_posix() not in tracked

    def go(place: Path) -> None:
        for path in sorted(place.iterdir()):
            name, target = path.relative_to(folder).as_posix(), path.resolve()
            if name in code or path.name == "__pycache__" or target in (root, folder, *folder.parents):
                continue
            named = any(_matches(name, pattern) for pattern in own.links)
            if named or not path.is_dir() or _no_code(path):
                linked.append(name)
            elif Path(name) in with_code or target in root.parents:
                go(path)
            else:
                files = [Path(at, file) for at, _, files in os.walk(path) for file in files]
                (empty if not files or any(map(of_run, files)) else linked).append(name)

    go(folder)
    return linked, empty


def changes(paths: Iterable[Path]) -> dict[str, int]:
    """Modification times in ns of files and folders among and below some paths, by the file system's clock;
    without caches of Python and tools."""
    found: dict[str, int] = {}
    for path in paths:
        if _no_code(path):
            continue
        below = [] if path.is_dir() else [str(path)]
        for place, folders, files in os.walk(path):
            below += [os.path.join(place, name) for name in files]
            below += [] if "__pycache__" in folders else [place]
            folders[:] = [name for name in folders if not _no_code(Path(place, name))]
        for name in below:
            with suppress(FileNotFoundError):
                found[name] = os.stat(name).st_mtime_ns
    return found


def written_beside(work: Path, copy: Path, most: int = 5) -> list[str]:
    """Files that a command has put into a run's folder."""
    there = kept_files(work).items()
    own = {name for name, path in there if not path.is_symlink() and path.parent.name != "__pycache__"}
    return sorted(own - kept_files(copy).keys())[:most]
