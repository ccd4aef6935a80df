"""A lease on a study: allows one driver at a time; a dead or stalled driver loses it.

`driver.json` names the holder; its modification time is that of the last renewal. A driver that takes over
replaces the file, so a late renewal by the old driver has no effect.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ablate.training.files import LockHeldError, locked
from ablate.training.rundir import write_json

EXPIRES = 60.0
"""Seconds without renewal after which a driver on another host counts as dead."""


class StudyHeldError(RuntimeError):
    """Another driver holds the study; the message names it."""


class LeaseLostError(StudyHeldError):
    """Another driver took over the study; this one must no longer write plan or trials."""


class Lease:
    """The lease on a held study, renewed by its own thread.

    `token` counts the drivers of the study; a higher one in `driver.json` means that the lease is lost.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "driver.json"
        self.token = _read(self._path)[0].get("token", 0) + 1
        self._me = {"host": socket.gethostname(), "pid": os.getpid(), "token": self.token}
        write_json(self._path, self._me)
        self._note = os.open(self._path, os.O_RDONLY)
        self._left = threading.Event()
        self._heartbeat = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._heartbeat.start()

    def check(self) -> None:
        """Check that the lease is still held; call this before writing the study's plan or trials.

        Raises:
            LeaseLostError: another driver has taken over the study.
        """
        holder, _ = _read(self._path)
        if holder != self._me:
            raise LeaseLostError(
                f"study {self._folder.name!r} was taken over by {_named(holder)}, because this driver did "
                "not renew its lease in time; this driver stops, and the last checkpoints are kept"
            )

    def _keep(self) -> None:
        while not self._left.wait(EXPIRES / 6):
            try:
                self.check()
                os.utime(self._note)
            except LeaseLostError:
                return
            except OSError:
                continue

    def leave(self) -> None:
        """Release the study, but keep the count of its drivers. Another driver's note is not changed."""
        self._left.set()
        self._heartbeat.join()
        with suppress(OSError):
            os.utime(self._note, (0, 0))
        os.close(self._note)


@contextmanager
def hold(folder: Path) -> Iterator[Lease]:
    """Hold the study in `folder`.

    A file lock, which ends with the process, guards against other drivers on this host. A note with a
    modification time guards against drivers on other hosts that share the folder. Its age is measured against
    a file touched now, so both times are from the file server's clock.

    Raises:
        StudyHeldError: another driver holds it.
    """
    note = folder / "driver.json"
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(locked(folder / "driver.lock", wait=False))
        except LockHeldError:
            raise StudyHeldError(_held(folder, _read(note)[0])) from None
        os.utime(lock)
        holder, renewed = _read(note)
        lapsed = os.fstat(lock).st_mtime - renewed >= EXPIRES
        if holder.get("host") not in (None, socket.gethostname()) and not lapsed:
            raise StudyHeldError(_held(folder, holder))
        lease = Lease(folder)
        stack.callback(lease.leave)
        yield lease


def _read(note: Path) -> tuple[dict[str, Any], float]:
    """The content of a note, and when it was renewed. Opens the file for both, since NFS may return
    attributes that are up to a minute old for a file that is not open."""
    try:
        with note.open() as file:
            return json.load(file), os.fstat(file.fileno()).st_mtime
    except (FileNotFoundError, ValueError):  # a power cut leaves an empty file
        return {}, 0.0


def _held(folder: Path, holder: dict[str, Any]) -> str:
    return f"study {folder.name!r} is being run by {_named(holder)}; wait for it, or end it and run again"


def _named(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
