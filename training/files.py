"""Files that are there as a whole or not at all, and locks that go with their holder."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PROBING = 0.5
"""Seconds for which a lock that is not waited for is tried: `is_locked` of others holds it for an instant."""


class LockHeldError(RuntimeError):
    """Another process holds the lock."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the place of `path` when the block ends well.

    The data reach the disk before the name changes, so that a crash leaves the old file or the new one. A
    block that raises leaves the old file and no temporary one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` to fill; it becomes `path` when the block ends well, else it goes.

    `path` must not be there, and no one else may be at it; what a killed process left of it is removed.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold a lock file, which is made where it is missing.

    The lock belongs to the open file: it goes when the block ends or the process dies, however, and lasts as
    long as a child that was started with the descriptor (`pass_fds`).

    Yields:
        The descriptor.

    Raises:
        LockHeldError: another process holds it and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if wait:
            fcntl.flock(file, fcntl.LOCK_EX)
        elif not _taken_soon(file):
            raise LockHeldError(f"{path} is held by another process")
        yield file.fileno()


def is_locked(path: Path) -> bool:
    """Whether some process holds a lock file at this moment. Writes nothing, and makes nobody fail."""
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
