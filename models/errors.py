"""What goes wrong for a reason that the user can mend."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """Input that cannot be used. The message says what is wrong and what to do; the command line prints it
    as one line and exits with 2. Any other exception is a fault of this project and keeps its traceback."""


def explain(error: ValidationError) -> str:
    """What a configuration's error says, a clause for each field, with the value refused."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or error.title}: {e['msg'].removeprefix('Value error, ')} "
        f"(got {e['input']!r})"
        for e in error.errors()
    )
