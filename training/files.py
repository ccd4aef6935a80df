"""Files written whole or not at all, files that grow by whole lines, and locks that end with their holder."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

logger = logging.getLogger(__name__)

PROBING = 0.5
"""Seconds to try for a lock without waiting for it: `is_locked` elsewhere may hold it for an instant."""


class LockHeldError(RuntimeError):
    """Another process holds the lock."""


def _of(path: Path, error: OSError) -> OSError:
    """A write error with its file; the system reports only the number."""
    if error.errno is not None and error.filename is None:
        error.filename = str(path)
    return error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it replaces `path` if the block succeeds.

    The data reach the disk before the name changes, so a crash leaves the old file or the new one. If the
    block raises, the old file stays and the temporary one is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _of(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` to fill; it becomes `path` if the block succeeds, else it is removed.

    `path` must not exist, and nobody else may write it; leftovers of a killed process are removed.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def append_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Append JSON objects to a file, one per line, and sync: all of them or none.

    A torn last line, left by a crash or a full disk, is removed first. Only one process may write at a time.

    Raises:
        OSError: the lines could not be written; the file is unchanged.
    """
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    with open(path, "a+b", buffering=0) as file:
        end = _end_of_lines(file)
        if end < file.seek(0, os.SEEK_END):
            logger.warning("%s ended with an incomplete line, which was removed", path)
            file.truncate(end)
        try:
            while text:
                text = text[file.write(text) :]
            os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                file.truncate(end)
            raise _of(path, error) from None


def _end_of_lines(file: IO[bytes], block: int = 1 << 16) -> int:
    """The end of the last whole line of a file."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - block)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one per line; torn lines are left out with a warning."""
    try:
        raw = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    found = []
    for line in raw[:-1]:
        with suppress(ValueError):
            if isinstance(value := json.loads(line), dict):
                found.append(value)
    if torn := len(raw) - 1 - len(found):
        tell_once(path, f"{torn} incomplete lines are left out")
    return found


@lru_cache(maxsize=1000)
def tell_once(path: Path, problem: str) -> None:
    """Log a problem with a file, once per process."""
    logger.warning("%s: %s", path, problem)


def newest(folder: Path, pattern: str) -> Path | None:
    """The file or folder that a path or glob names below a folder; if there are several, the last one
    written."""
    found = folder.glob(pattern) if any(sign in pattern for sign in "*?[") else [folder / pattern]
    return max((p for p in found if p.exists()), key=lambda p: (p.stat().st_mtime_ns, p), default=None)


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that another can replace it; returns the new name."""
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    path.rename(aside)
    return aside


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold a lock file, which is created if missing.

    The lock belongs to the open file: it ends with the block or the process, but a child started with the
    descriptor (`pass_fds`) keeps it.

    Yields:
        The descriptor.

    Raises:
        LockHeldError: `wait` is false, and another process holds the lock or has just moved it away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if wait:
            fcntl.flock(file, fcntl.LOCK_EX)
        elif not _taken_soon(file):
            raise LockHeldError(f"{path} is held by another process")
        if _is_at(file, path):
            yield file.fileno()
            return
    if not wait:
        raise LockHeldError(f"{path} was moved by another process")
    with locked(path) as descriptor:
        yield descriptor


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is still at its path: an earlier holder of the lock may have renamed the
    folder."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock file now. Writes nothing and makes nobody fail."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _taken_soon(file: IO[str]) -> bool:
    deadline = time.monotonic() + PROBING
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
