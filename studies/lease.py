"""One driver at a time holds a study; a dead one loses it."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ablate.training.rundir import read_json, write_json

EXPIRES = 60.0
"""Seconds after which a driver on another host that has not renewed its lease counts as dead."""


class StudyHeldError(RuntimeError):
    """Another driver holds the study; the message says which."""


class Lease:
    """A held study; `renew` must be called more often than every `EXPIRES` seconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._renewed = 0.0
        self.renew()

    def renew(self) -> None:
        if time.time() - self._renewed > EXPIRES / 6:
            self._renewed = time.time()
            write_json(
                self._path, {"host": socket.gethostname(), "pid": os.getpid(), "renewed": self._renewed}
            )


@contextmanager
def hold(folder: Path) -> Iterator[Lease]:
    """Hold the study in `folder`.

    A file lock guards against drivers of this host and goes with the process; a dated note guards
    against those of other hosts that share the folder.

    Raises:
        StudyHeldError: another driver holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "driver.json"
    with (folder / "driver.lock").open("a") as handle:
        holder = read_json(note) or {}
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyHeldError(_held(folder, holder)) from None
        age = time.time() - holder.get("renewed", 0.0)
        if holder.get("host") not in (None, socket.gethostname()) and age < EXPIRES:
            raise StudyHeldError(_held(folder, holder))
        try:
            yield Lease(note)
        finally:
            note.unlink(missing_ok=True)


def _held(folder: Path, holder: dict) -> str:
    return (
        f"study {folder.name!r} is driven by process {holder.get('pid', '?')} on {holder.get('host', '?')}; "
        "wait for it, or end it and run again"
    )
