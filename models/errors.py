"""What goes wrong for a reason that the user can mend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """Input that cannot be used. The message says what is wrong and what to do; the command line prints it
    as one line and exits with 2. Any other exception is a fault of this project and keeps its traceback."""


@contextmanager
def readable() -> Iterator[None]:
    """Turn a configuration that is refused within into an `InputError` that says why in one line."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        raise InputError(explain(error)) from error


def explain(error: ValidationError) -> str:
    """What a configuration's error says, a clause for each field, with the value refused."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or error.title}: {e['msg'].removeprefix('Value error, ')} "
        f"(got {e['input']!r})"
        for e in error.errors()
    )


def listed(items: Sequence[Any], most: int = 6) -> str:
    """The first items, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"
