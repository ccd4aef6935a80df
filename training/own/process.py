"""The process of a command: a group of its own that holds the run's lock, and how it is ended.

A command inherits the descriptor of the run's lock, so that a run whose worker was killed is still held while
its command lives. What is needed to end such a command is in the run's `process.json`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from ..rundir import RunDir, read_json, write_json

GRACE = 30.0
"""Seconds that a command has after SIGTERM before it is killed."""
TICK = 0.2
"""Seconds between two looks at a command."""
NOT_FOR_COMMANDS = frozenset({signal.SIGUSR2})
"""Signals by which SLURM tells all processes of a job that its time is up: meant for the worker, which then
ends its command; most programs would die of one before they have written anything."""


def run_command(
    run: RunDir,
    words: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    lock: int,
    tick: Callable[[], None],
    should_stop: Callable[[], bool],
) -> int | None:
    """Run a command to its end; what it prints goes to the run's log.

    Args:
        lock: descriptor of the run's lock.
        tick: called a few times a second.
        should_stop: asked as often; the command then gets SIGTERM, and SIGKILL after a while.

    Returns:
        The exit code, negative for a signal; none: it was stopped, or ended badly when it was to be stopped,
        since SLURM asks all processes of a job at once.

    Raises:
        OSError: there is no such program, or it may not be run.
    """
    with run.log.open("ab") as log, _blocked(NOT_FOR_COMMANDS):
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            start_new_session=True,
        )
    try:
        write_json(_note(run), {"pid": process.pid, "born": _born(process.pid), **_keeper()})
        while not should_stop():
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(TICK)
                if code != 0:
                    time.sleep(TICK)
                return None if code != 0 and should_stop() else code
            tick()
        return None
    finally:
        _end_group(process.pid, process)
        _note(run).unlink(missing_ok=True)


@contextmanager
def _blocked(signals: Collection[int]) -> Iterator[None]:
    """Hold signals back from this thread; a process that it starts never gets them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_left_behind(run: RunDir) -> None:
    """End a command of this machine whose worker has died, so that the run can be written again."""
    note = read_json(_note(run))
    if note is None or (note["host"], note["boot"]) != (socket.gethostname(), _boot()):
        return
    if _born(note["keeper"]) == note["keeper_born"]:
        return
    if _born(note["pid"]) in (note["born"], None):
        _end_group(note["pid"])
    _note(run).unlink(missing_ok=True)


def _note(run: RunDir) -> Path:
    return run.path / "process.json"


def _keeper() -> dict[str, Any]:
    me = os.getpid()
    return {"keeper": me, "keeper_born": _born(me), "host": socket.gethostname(), "boot": _boot()}


def _boot() -> str:
    """What tells this start of the machine from others: process numbers begin anew with it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(int(psutil.boot_time()))


def _born(pid: int) -> float | None:
    """When a process started, which tells it from a later one of the same number; none: it is dead."""
    with suppress(OSError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state == "Z" else float(fields[18])  # ticks since the start of the machine
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def _members(group: int) -> list[int]:
    """The living processes of a group."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def _end_group(group: int, leader: subprocess.Popen[bytes] | None = None) -> None:
    """Ask the processes of a group to end, and kill those that have not after a while."""
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        if not _members(group):
            break
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
        deadline = time.monotonic() + patience
        while _members(group) and time.monotonic() < deadline:
            if leader is not None:
                leader.poll()
            time.sleep(TICK / 4)
    if leader is not None:
        leader.wait()
