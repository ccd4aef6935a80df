"""How a command ended: by a signal or a code, and what its last words say of the cause."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from ..failures import RunFailure, classify
from ..rundir import Cause

FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""Signals that someone else sends: the attempt was lost, the command has not failed."""
LAST_LINES = 80
"""Of the output, in which the reason of an end is looked for: a launcher adds up to 60."""
EXCEPTION = re.compile(r"(\[[^\]]*\]:?\s*)*([A-Za-z_]\w*\.)*[A-Z]\w*(Error|Exception|Interrupt)\b(:|$)")
OF_LAUNCHERS = ("ChildFailedError", "CalledProcessError")
OF_FILES = re.compile(r"\b(OS|IO|Import|Key|Permission|\w*NotFound|FileExists|\w*Directory)Error:")
CHILD_ENDED_BY = re.compile(r"exitcode\s*: -(\d+)")
PATH = re.compile(r"\S*[/\\]\S*")
LOSS = re.compile(r"\w*(loss(es)?|grad(ient)?s?|grad_norm|Backward\d*)\b", re.IGNORECASE)
NOT_FINITE = re.compile(r"\b(nans?|non-?finite|not finite|inf(inite|inity)?)\b", re.IGNORECASE)


class CommandError(Exception):
    """A command ended badly."""


def was_lost(code: int) -> bool:
    return -code in FROM_OUTSIDE


def failure(code: int, last: str) -> RunFailure:
    """What a bad exit says: the signal or the code, and the last words."""
    cause: Cause
    if code < 0:
        name = signal.Signals(-code).name
        cause = "lost-worker" if was_lost(code) else _told(last) or "error"
        error: Exception = CommandError(f"the command was killed by {name}" + (f": {last}" if last else ""))
    else:
        error = CommandError(f"exit code {code}: {last or 'it printed nothing'}")
        cause = _told(last) or ("configuration" if code in (2, 126, 127) else "error")
    failed = RunFailure(cause)
    failed.__cause__ = error
    return failed


def _told(line: str) -> Cause | None:
    """The cause that a line of output tells: memory that ran out, a port that was taken, a broken device."""
    if "MemoryError" in line:
        return "out-of-memory"
    if "address already in use" in line.lower() or "EADDRINUSE" in line:
        return "port-taken"
    cause = classify(RuntimeError(line), "error")
    return cause if cause != "error" else None


def ending(code: int, log: Path, offset: int, most: int = 20_000) -> tuple[int, str]:
    """The exit code, negative where a signal ended the command behind a shell or launcher; its last words.

    Those are a line that tells of memory, else the last exception that is not a launcher's, else the last
    line.
    """
    with log.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(offset, end - most))
        lines = [line.strip()[:500] for line in file.read().decode(errors="replace").splitlines()]
    lines = [line for line in lines if line][-LAST_LINES:]
    raised = [line for line in lines if EXCEPTION.match(line)]
    told = [line for line in lines if _told(line)]
    own = [line for line in raised if not any(name in line for name in OF_LAUNCHERS)]
    last = (told or own or raised or lines or [""])[-1]
    behind = [int(found[1]) for line in lines if (found := CHILD_ENDED_BY.search(line))]
    if code > 0 and behind:
        code = -behind[-1]
    elif code - 128 in set(signal.Signals):
        code = 128 - code
    return code, last


def says_diverged(line: str) -> bool:
    """Whether a line is an exception that says that a loss or a gradient is not finite."""
    if not EXCEPTION.match(line) or OF_FILES.search(line):
        return False
    words = PATH.sub("", line)
    return bool(LOSS.search(words) and NOT_FINITE.search(words))
