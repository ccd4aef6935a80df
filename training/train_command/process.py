"""The process of a command and all that it starts: run to its end, and ended.

A command inherits the descriptor of the run's lock, so that a run whose worker was killed is still held while
its command lives. Its descendants are known by a variable of their environment, which also says whose they
are; orphans among them that have cleared it become children of the worker while that lives.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from ..rundir import RunDir

GRACE = 30.0
"""Seconds that a command has after SIGTERM before it is killed."""
TICK = 0.2
"""Seconds between two looks at a command."""
NOT_FOR_COMMANDS = frozenset({signal.SIGUSR2})
"""Signals by which SLURM tells all processes of a job that its time is up: meant for the worker, which then
ends its command; most programs would die of one before they have written anything."""
MARKER = "ABLATE_RUN"
"""Variable by which the descendants of a run's command are known: the run's folder, the host, the worker."""
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
    _end(lambda: _descendants(run))
    with run.log.open("ab") as log, _blocked(NOT_FOR_COMMANDS), _adopting() as orphans:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env={**environment, MARKER: json.dumps([*_place(run), os.getpid(), _born(os.getpid())])},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            start_new_session=True,
        )
        try:
            while not should_stop():
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(TICK)
                    if code != 0:
                        time.sleep(TICK)
                    return None if code != 0 and should_stop() else code
                tick()
            return None
        finally:
            _end(lambda: _descendants(run) | _members({process.pid}) | orphans(), process)


def free_port() -> int:
    """A port that nothing on this machine listens on at this moment."""
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def find_python(words: Sequence[str], path: str | None, deep: bool = True) -> str | None:
    """The Python that a command starts, behind `env`, a shell or a launcher such as `torchrun` too: the first
    among its words, or the one that the first line of a program among them names.

    Args:
        path: where programs are looked for.
        deep: words that hold several, and shell scripts, are looked into.
    """
    for word in words:
        if deep and len(inner := word.split()) > 1:
            if (found := find_python(inner, path, deep=False)) is not None:
                return found
            continue
        program = shutil.which(word, path=path)
        if program is None:
            continue
        if Path(program).name.startswith("python"):
            return program
        with open(program, "rb") as file:
            start = file.read(4096)
        first, _, rest = start.decode(errors="replace").partition("\n")
        if not first.startswith("#!"):
            continue
        if "python" in first:
            return find_python(first[2:].split(), path, deep=False)
        if deep and (found := find_python(rest.split(), path, deep=False)) is not None:
            return found
    return None


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
    """End what lives on this machine of a command whose worker has died, so that the run can be written."""
    if (run.path / "work").is_dir():  # of a command; networks are spared a look at every process
        _end(lambda: _descendants(run, orphaned=True))


def _place(run: RunDir) -> tuple[str, str]:
    return str(run.path.resolve()), socket.gethostname()


def _born(pid: int) -> float | None:
    """When a process started, which tells it from a later one of the same number; none: it is dead."""
    with suppress(OSError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state == "Z" else float(fields[18])  # ticks since the start of the machine
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def _descendants(run: RunDir, orphaned: bool = False) -> set[int]:
    """The living processes with a run's marker and those of their groups; or only if their worker is dead."""
    place = list(_place(run))

    def known(process: psutil.Process) -> bool:
        marker = process.environ().get(MARKER)
        if marker is None or (found := json.loads(marker))[:2] != place:
            return False
        return not orphaned or _born(found[2]) != found[3]

    if marked := _living(known):
        groups = set()
        for pid in marked:
            with suppress(OSError):
                groups.add(os.getpgid(pid))
        return marked | _members(groups - {os.getpgid(0)})
    return marked


def _members(groups: Collection[int]) -> set[int]:
    """The living processes of some groups."""
    return _living(lambda process: os.getpgid(process.pid) in groups)


def _living(wanted: Callable[[psutil.Process], bool]) -> set[int]:
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError, ValueError):
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
