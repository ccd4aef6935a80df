"""The process of a command with all its descendants: run, end, and the reason of its end.

A command inherits the descriptor of the run's lock, so the run of a killed worker stays locked while its
command lives. While the worker lives, its descendants stay below it, orphans too (Linux); later they are
known by an environment variable, which also names their run.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import psutil

from ..failures import RunFailure, classify
from ..rundir import RunDir

if TYPE_CHECKING:
    from ..contract import Assignment

GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL."""
TICK = 0.2
"""Seconds between two checks of a command."""
NOT_FOR_COMMANDS = frozenset({signal.SIGUSR2})
"""With these SLURM warns all processes of a job that its time is up. They are for the worker, which then ends
its command; most programs would die of one before writing anything."""
MARKER = "ABLATE_RUN"
"""Variable that marks the descendants of a run's command: the run's folder, the host, the worker."""
SET_SUBREAPER = 36
FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""Signals from outside: the attempt was lost, the command has not failed."""
LAST_LINES = 80
"""Lines of output searched for the reason of an end: a launcher adds up to 60."""
EXCEPTION = re.compile(r"(\[[^\]]*\]:?\s*)*([A-Za-z_]\w*\.)*[A-Z]\w*(Error|Exception|Interrupt)\b(:|$)")
OF_LAUNCHERS = ("ChildFailedError", "CalledProcessError")
OF_FILES = re.compile(r"\b(OS|IO|Import|Key|Permission|\w*NotFound|FileExists|\w*Directory)Error:")
USAGE = re.compile(r"\S+: error: ")
CHILD_ENDED = re.compile(r"exitcode\s*: (-?\d+)")
PATH = re.compile(r"\S*[/\\]\S*")
LOSS = re.compile(r"\w*(loss(es)?|grad(ient)?s?|grad_norm|Backward\d*)\b", re.IGNORECASE)
NOT_FINITE = re.compile(r"\b(nans?|non-?finite|not finite|inf(inite|inity)?)\b", re.IGNORECASE)


def run_command(
    given: Assignment, words: Sequence[str], environment: Mapping[str, str], tick: Callable[[], None]
) -> int | None:
    """Run a command to its end, then end its remaining processes; its output goes to the run's log.

    Args:
        given: when it says to stop, the command gets SIGTERM, and SIGKILL after a while.
        tick: called a few times a second.

    Returns:
        The exit code, negative for a signal; None: it was stopped, or failed while it had to stop, since
            SLURM
        signals all processes of a job at once.

    Raises:
        OSError: the program does not exist or may not be run.
    """
    run = given.run
    _end(lambda: _marked(run))
    before, process = {*psutil.Process().children()}, None
    _adopt_orphans(True)
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, NOT_FOR_COMMANDS)
        try:
            with run.log.open("ab") as log:
                process = subprocess.Popen(
                    words,
                    cwd=run.work,
                    env={**environment, MARKER: json.dumps([*_place(run), os.getpid()])},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(given.lock,),
                    start_new_session=True,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, NOT_FOR_COMMANDS)
        while not given.should_stop():
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(TICK)
                if code != 0:
                    time.sleep(TICK)
                return None if code != 0 and given.should_stop() else code
            tick()
        return None
    finally:
        _end(lambda: _marked(run) | _descendants(before))
        if process is not None:
            process.wait()
        for orphan in _descendants(before):
            with suppress(psutil.Error):
                orphan.wait(0)
        _adopt_orphans(False)


def free_port() -> int:
    """A port that nothing on this machine uses at this moment."""
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def find_python(words: Sequence[str], path: str | None, depth: int = 2) -> str | None:
    """The Python that a command starts: the first among its words, also behind `env`, a shell or a script.

    Args:
        path: search path of programs.
        depth: levels of scripts and of words with several words to search.
    """
    for word in words:
        program = shutil.which(word, path=path)
        if program is not None and Path(program).name.startswith("python"):
            return program
        within = word
        if program is not None:
            with open(program, "rb") as file:
                script = file.read(4096)
            within = script[2:].decode(errors="replace") if script.startswith(b"#!") else ""
        if depth and (found := find_python(within.split(), path, depth - 1)) is not None:
            return found
    return None


def _adopt_orphans(adopts: bool) -> None:
    """Make this process the parent of its orphaned descendants, or no longer (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_SUBREAPER, int(adopts), 0, 0, 0)


def _descendants(before: Collection[psutil.Process]) -> set[psutil.Process]:
    """The processes below this one, without its earlier children and theirs."""
    found = {*psutil.Process().children()}.difference(before)
    for child in list(found):
        with suppress(psutil.Error):
            found.update(child.children(recursive=True))
    return found


def end_left_behind(run: RunDir) -> None:
    """End processes of a command on this machine whose worker has died, so that the run can be written."""
    if run.work.is_dir():  # networks are spared a look at every process
        _end(lambda: _marked(run, orphaned=True))


def _place(run: RunDir) -> list[str]:
    return [str(run.path.resolve()), socket.gethostname()]


def _marked(run: RunDir, orphaned: bool = False) -> set[psutil.Process]:
    """The processes with a run's marker; if `orphaned`, only those without a living worker above them."""
    found, here = set(), _place(run)
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError, ValueError):
            *place, worker = json.loads(process.environ().get(MARKER, "[null]"))[:3]
            mine = place == here and process.pid != os.getpid()
            if mine and not (orphaned and worker in [parent.pid for parent in process.parents()]):
                found.add(process)
    return found


def _end(left: Callable[[], set[psutil.Process]]) -> None:
    """Ask processes to end, and kill the remaining ones after a while."""
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        deadline, asked = time.monotonic() + GRACE, set[psutil.Process]()
        while (found := {*filter(_lives, left())}) and time.monotonic() < deadline:
            for process in found - asked:
                with suppress(psutil.Error):
                    ask(process)
            asked |= found
            time.sleep(TICK / 4)


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


class CommandError(Exception):
    """A command ended badly."""


def was_lost(code: int) -> bool:
    return -code in FROM_OUTSIDE


def fail(code: int, last: str) -> NoReturn:
    """Raise the failure of a bad exit: the signal or the code, and the last words."""
    cause = classify(RuntimeError(last), "configuration" if code in (2, 126, 127) else "error")
    said = f"exit code {code}: {last or 'it printed nothing'}"
    if code < 0:
        cause = "lost-worker" if was_lost(code) else cause
        said = f"the command was ended by {signal.Signals(-code).name}" + (f": {last}" if last else "")
    raise RunFailure(cause) from CommandError(said)


def ending(code: int, log: Path, offset: int, most: int = 20_000) -> tuple[int, str]:
    """The exit code of the program behind a shell or launcher, negative for a signal; and its last words.

    These are a line about memory, else the last exception that is not a launcher's, else a usage error, else
    the last line.
    """
    with log.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(offset, end - most))
        lines = [line.strip()[:500] for line in file.read().decode(errors="replace").splitlines()]
    lines = list(filter(None, lines))[-LAST_LINES:]
    raised = list(filter(EXCEPTION.match, lines))
    told = [line for line in lines if classify(RuntimeError(line), "error") != "error"]
    own = [line for line in raised if not any(name in line for name in OF_LAUNCHERS)]
    last = (told or own or [*filter(USAGE.match, lines)] or raised or lines or [""])[-1]
    behind = [int(number) for number in CHILD_ENDED.findall("\n".join(lines))]
    if own or any(number > 0 for number in behind):  # a launcher asks the other ranks to end when one failed
        behind = [number for number in behind if number != -signal.SIGTERM]
    if code > 0 and behind:
        code = behind[-1]
    return (128 - code if code - 128 in set(signal.Signals) else code), last


def says_diverged(line: str) -> bool:
    """Whether a line is an exception about a loss or a gradient that is not finite."""
    words = PATH.sub("", line)
    raised = EXCEPTION.match(line) and not OF_FILES.search(line)
    return bool(raised and LOSS.search(words) and NOT_FINITE.search(words))
