"""Finds paths whose parts are factors and seeds, such as `exp/{core}-{direction}/seed{seed}`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from ablate.models.errors import InputError, listed

FIELD = re.compile(r"\{(\w+)\}")


class FoundPath(NamedTuple):
    """A file or folder that a pattern matches, and its fields: factors and `seed`."""

    path: Path
    fields: dict[str, str]


def places(pattern: str) -> list[FoundPath]:
    """The paths that match a pattern such as `exp/{core}/seed{seed}`, sorted.

    A field matches any text within one part of a path; `*` matches without a field.

    Raises:
        InputError: the pattern does not have a field, has one twice, or matches nothing; or two paths have
            equal fields.
    """
    names = FIELD.findall(pattern)
    if not names or len(set(names)) < len(names):
        what = "a field twice" if names else "no field"
        raise InputError(f"{pattern!r} has {what}; write e.g. exp/{{core}}/seed{{seed}}/enhanced")
    parts = FIELD.split(str(Path(pattern)))  # text, name, text, name, ..., text
    expression = "".join(
        f"(?P<{part}>[^/]+?)" if index % 2 else re.escape(part).replace(r"\*", "[^/]*")
        for index, part in enumerate(parts)
    )
    whole = re.compile(expression)
    given = Path(FIELD.sub("*", pattern))
    root = Path(given.anchor) if given.is_absolute() else Path()
    found = []
    for path in sorted(root.glob(str(given.relative_to(root)))):
        if match := whole.fullmatch(str(path)):
            found.append(FoundPath(path, match.groupdict()))
    if not found:
        raise InputError(f"{pattern!r} matches nothing{_nearest(given)}")
    seen: dict[tuple[str, ...], Path] = {}
    for place in found:
        key = tuple(place.fields.values())
        if key in seen:
            same = ", ".join(f"{name}={value}" for name, value in place.fields.items())
            raise InputError(f"{seen[key]} and {place.path} are the same run ({same}); narrow the pattern")
        seen[key] = place.path
    return found


def _nearest(given: Path) -> str:
    """The deepest existing folder of a pattern, and its content, as text."""
    for depth in range(len(given.parts) - 1, -1, -1):
        above = Path(*given.parts[:depth])
        root = Path(above.anchor) if above.is_absolute() else Path()
        there = sorted(root.glob(str(above.relative_to(root)))) if above != root else [root]
        if there:
            held = sorted(path.name for path in there[0].iterdir()) if there[0].is_dir() else []
            return f"; {there[0]} has {listed(held) if held else 'nothing'}"
    return ""
