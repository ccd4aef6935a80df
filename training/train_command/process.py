"""The process of a command and all that it starts: run to its end, and ended; and how it ended.

A command inherits the descriptor of the run's lock, so that a run whose worker was killed is still held while
its command lives. While the worker lives, its descendants stay below it, orphans among them too (Linux);
later they are known by a variable of their environment, which also says whose they are.
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
"""Seconds that a command has after SIGTERM before it is killed."""
TICK = 0.2
"""Seconds between two looks at a command."""
NOT_FOR_COMMANDS = frozenset({signal.SIGUSR2})
"""Signals by which SLURM tells all processes of a job that its time is up: meant for the worker, which then
ends its command; most programs would die of one before they have written anything."""
MARKER = "ABLATE_RUN"
"""Variable by which the descendants of a run's command are known: the run's folder, the host, the worker."""
SET_SUBREAPER = 36
FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""Signals that someone else sends: the attempt was lost, the command has not failed."""
LAST_LINES = 80
"""Of the output, in which the reason of an end is looked for: a launcher adds up to 60."""
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
    """Run a command to its end, and end whatever it leaves behind; what it prints goes to the run's log.

    Args:
        given: once it says to stop, the command gets SIGTERM, and SIGKILL after a while.
        tick: called a few times a second.

    Returns:
        The exit code, negative for a signal; none: it was stopped, or ended badly when it was to be stopped,
        since SLURM asks all processes of a job at once.

    Raises:
        OSError: there is no such program, or it may not be run.
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
    """A port that nothing on this machine listens on at this moment."""
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def find_python(words: Sequence[str], path: str | None, depth: int = 2) -> str | None:
    """The Python that a command starts: the first among its words, behind `env`, a shell or a script too.

    Args:
        path: where programs are looked for.
        depth: how often scripts among the words, and words that hold several, are looked into.
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
    """Whether orphans among the descendants of this process come to it (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_SUBREAPER, int(adopts), 0, 0, 0)


def _descendants(before: Collection[psutil.Process]) -> set[psutil.Process]:
    """The processes below this one, without its children of before and theirs."""
    found = {*psutil.Process().children()}.difference(before)
    for child in list(found):
        with suppress(psutil.Error):
            found.update(child.children(recursive=True))
    return found


def end_left_behind(run: RunDir) -> None:
    """End what lives on this machine of a command whose worker has died, so that the run can be written."""
    if run.work.is_dir():  # networks are spared a look at every process
        _end(lambda: _marked(run, orphaned=True))


def _place(run: RunDir) -> list[str]:
    return [str(run.path.resolve()), socket.gethostname()]


def _marked(run: RunDir, orphaned: bool = False) -> set[psutil.Process]:
    """The processes with a run's marker; or only those whose worker, above them while it lives, is dead."""
    found, here = set(), _place(run)
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError, ValueError):
            *place, worker = json.loads(process.environ().get(MARKER, "[null]"))[:3]
            mine = place == here and process.pid != os.getpid()
            if mine and not (orphaned and worker in [parent.pid for parent in process.parents()]):
                found.add(process)
    return found


def _end(left: Callable[[], set[psutil.Process]]) -> None:
    """Ask processes to end, and kill those that have not after a while."""
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
    """Raise what a bad exit says: the signal or the code, and the last words."""
    cause = classify(RuntimeError(last), "configuration" if code in (2, 126, 127) else "error")
    said = f"exit code {code}: {last or 'it printed nothing'}"
    if code < 0:
        cause = "lost-worker" if was_lost(code) else cause
        said = f"the command was ended by {signal.Signals(-code).name}" + (f": {last}" if last else "")
    raise RunFailure(cause) from CommandError(said)


def ending(code: int, log: Path, offset: int, most: int = 20_000) -> tuple[int, str]:
    """The exit code, that of the program behind a shell or launcher, negative for a signal; its last words.

    Those are a line that tells of memory, else the last exception that is not a launcher's, else what it says
    of its options, else the last line.
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
    """Whether a line is an exception that says that a loss or a gradient is not finite."""
    words = PATH.sub("", line)
    raised = EXCEPTION.match(line) and not OF_FILES.search(line)
    return bool(raised and LOSS.search(words) and NOT_FINITE.search(words))
