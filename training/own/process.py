"""The process of a command and all that it starts: run to its end, and ended.

A command inherits the descriptor of the run's lock, so that a run whose worker was killed is still held while
its command lives. Its descendants are known by a variable of their environment; orphans among them that have
cleared it become children of this process. What is needed to end a command whose worker was killed is in the
run's `process.json`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
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
MARKER = "ABLATE_RUN"
"""Variable by which the descendants of a run's command are known; its value is the run's folder."""
SET_SUBREAPER, GET_SUBREAPER = 36, 37


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
    """Run a command to its end, and end whatever it leaves behind; what it prints goes to the run's log.

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
    _end(lambda: _marked(run))
    with run.log.open("ab") as log, _blocked(NOT_FOR_COMMANDS), _adopting() as orphans:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env={**environment, MARKER: _mark(run)},
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
            _end(lambda: _members(process.pid) | _marked(run) | orphans(), process)
            _note(run).unlink(missing_ok=True)


@contextmanager
def _blocked(signals: Collection[int]) -> Iterator[None]:
    """Hold signals back from this thread; a process that it starts never gets them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _adopting() -> Iterator[Callable[[], set[int]]]:
    """Have orphans among the descendants come to this process (Linux); yields what tells the living ones."""
    me, former = psutil.Process(), ctypes.c_int()
    before = {child.pid for child in me.children()}
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else lambda *_: -1
    prctl(GET_SUBREAPER, ctypes.byref(former), 0, 0, 0)
    prctl(SET_SUBREAPER, 1, 0, 0, 0)

    def orphans() -> set[int]:
        found = set()
        for child in me.children():
            if child.pid not in before:
                found |= {child.pid, *(below.pid for below in _below(child))}
        return {pid for pid in found if _born(pid) is not None}

    try:
        yield orphans
    finally:
        prctl(SET_SUBREAPER, former.value, 0, 0, 0)
        for child in me.children():
            with suppress(psutil.Error, ChildProcessError):
                if child.pid not in before and child.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(child.pid, os.WNOHANG)


def _below(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def end_left_behind(run: RunDir) -> None:
    """End a command of this machine whose worker has died, so that the run can be written again."""
    note = read_json(_note(run))
    if note is None or (note["host"], note["boot"]) != (socket.gethostname(), _boot()):
        return
    if _born(note["keeper"]) == note["keeper_born"]:
        return
    group = note["pid"] if _born(note["pid"]) in (note["born"], None) else None
    _end(lambda: _marked(run) | (_members(group) if group else set()))
    _note(run).unlink(missing_ok=True)


def _note(run: RunDir) -> Path:
    return run.path / "process.json"


def _mark(run: RunDir) -> str:
    return str(run.path.resolve())


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


def _marked(run: RunDir) -> set[int]:
    """The living processes that have a run's marker."""
    return _living(lambda process: process.environ().get(MARKER) == _mark(run))


def _members(group: int) -> set[int]:
    """The living processes of a group."""
    return _living(lambda process: os.getpgid(process.pid) == group)


def _living(wanted: Callable[[psutil.Process], bool]) -> set[int]:
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if wanted(process) and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
    return found - {os.getpid()}


def _end(left: Callable[[], set[int]], leader: subprocess.Popen[bytes] | None = None) -> None:
    """Ask processes to end, and kill those that have not after a while."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline, asked = time.monotonic() + GRACE, set[int]()
        while (found := left()) and time.monotonic() < deadline:
            for pid in found - asked:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            asked |= found
            if leader is not None:
                leader.poll()
            time.sleep(TICK / 4)
    if leader is not None:
        leader.wait()
