"""Errors that the user can fix, and parts of their messages."""

from __future__ import annotations

import difflib
import errno
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """Unusable input. The message names the problem and the fix.

    The command line prints it as one line and exits with 2. Any other exception is an internal error.
    """


@contextmanager
def readable(where: str = "") -> Iterator[None]:
    """Turn a `ValidationError` raised in the block into an `InputError` that starts with `where`."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        raise InputError(where + explain(error)) from error


FULL = re.compile(r"requested and \d+ written|unexpected pos \d+ vs|No space left on device|disk is full")
"""Messages of numpy, torch, programs and SQLite about a full disk, in errors without an `errno`."""


def storage_problem(error: BaseException) -> str | None:
    """Why writing failed, with the file (if known) and the fix; None for other errors."""
    number = getattr(error, "errno", None)
    where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    if number in (errno.ENOSPC, errno.EDQUOT) or FULL.search(str(error)):
        return f"the disk is full{where}: free some space"
    if number == errno.EROFS:
        return f"the file system is read-only{where}: choose a folder that can be written"
    return None


def explain(error: ValidationError) -> str:
    """A validation error in words: a clause for each field, with its value and the nearest valid one."""
    clauses = []
    for e in error.errors():
        where = ".".join(map(str, e["loc"])) or error.title
        message = e["msg"].removeprefix("Value error, ")
        if e["type"] == "literal_error":
            near = nearest(str(e["input"]), re.findall(r"'([^']*)'", e["ctx"]["expected"]))
            message += f"; did you mean {near!r}?" if near else ""
        got = "" if isinstance(e["input"], dict) else f" (got {e['input']!r})"
        clauses.append(f"{where}: {message}{got}")
    return "; ".join(clauses)


RENAMED = {
    "at_lengths": "step_fractions",
    "one-in": "add-one",
    "one-out": "leave-one-out",
    "recipe.judge_lag": "recipe.discriminator_lag",
    "recipe.judged_clips": "recipe.discriminator_fraction",
}
"""Former name -> current name, for keys and values of a study file."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The current name of a renamed option, or else the most similar known name, if any."""
    names = list(known)
    if RENAMED.get(name) in names:
        return RENAMED[name]
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.5)), None)


def listed(items: Sequence[Any], most: int = 6) -> str:
    """The first `most` items as text, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def nearest_multiples(value: int, of: int) -> str:
    """`the nearest are 48 and 52`: the multiples below and above a value."""
    low = value // of * of
    return f"the nearest are {low} and {low + of}" if low else f"the nearest is {of}"


def duration(seconds: float) -> str:
    """Seconds as `45 s`, `12 min` or `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def plural(count: int, noun: str) -> str:
    """`1 error`, `1,200 errors`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def told(error: BaseException) -> str:
    """An error's type and message, with the innermost line of the network's own code in the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(("<", *_around_networks()))]
    at = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{at}"


def _around_networks() -> tuple[str, ...]:
    """Folders and files whose code calls networks or is called by them, such as torch."""
    project = Path(__file__).parents[1]
    torch = getattr(sys.modules.get("torch"), "__file__", None)
    ours = [
        project / "ablations",
        *(project / "models" / f"{name}.py" for name in ("interface", "class_adapter")),
    ]
    importing = Path(sys.modules["importlib"].__file__ or "").parent
    return tuple(map(str, [*ours, importing, *([Path(torch).parent] if torch else [])]))
