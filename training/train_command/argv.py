"""From a command's text, a cell's overrides and what a run knows to the words of a process."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ablate.models.errors import InputError

from . import styles

OF_RUN = ("seed", "out", "data", "threads", "port", "gpus", "gpu_count")
"""What a run fills in, in commands and in the values of overrides."""
PLACEHOLDERS = (*OF_RUN, "overrides", "config")
_PLACEHOLDER = re.compile(r"\{(\{\w*\})\}|\{(\w*)\}")
_IN_VALUE = re.compile(r"\{(\{\w+\})\}|(?<!\$)\{(\w+)\}")
"""Hydra's own `${name}` in a value stays as it is."""


def check(command: str, style: str, resume: str | None) -> None:
    """Whether a command can be called.

    Raises:
        InputError: quotes are open, a placeholder is unknown, or one that is needed is missing.
    """
    used = _placeholders(command)
    words = split(command)
    if not words:
        raise InputError("the command is empty")
    by_file = style in styles.FILES
    needed, other = ("config", "overrides") if by_file else ("overrides", "config")
    if style != "env" and needed not in used:
        raise InputError(f"no {{{needed}}} in the command {command!r}: {style} overrides have no place there")
    if other in used or (style == "env" and needed in used):
        wrong = other if other in used else needed
        raise InputError(f"{{{wrong}}} in the command {command!r} is not for overrides: {style}")
    if needed == "overrides" and style != "env" and "{overrides}" not in words:
        raise InputError(f"{{overrides}} in the command {command!r} must be a word of its own")
    if resume is not None:
        if others := _placeholders(resume) - {"out", "seed", "threads"}:
            raise InputError(
                f"{{{min(others)}}} in resume {resume!r}: use {{out}} for the file to resume from"
            )
        if len(_files(resume)) != 1:
            raise InputError(f"resume {resume!r} must name one file below {{out}}, e.g. {{out}}/latest.pt")


def check_later(command: str) -> None:
    """Whether a command that follows the first can be called; raises as `check`."""
    if not split(command):
        raise InputError("a later command is empty")
    _placeholders(command)


def _placeholders(text: str, known: Collection[str] = PLACEHOLDERS, of: Any = _PLACEHOLDER) -> set[str]:
    found = {match[2] for match in of.finditer(text) if match[2] is not None}
    if unknown := found - set(known):
        name = min(unknown)
        named = " ".join(f"{{{name}}}" for name in known)
        raise InputError(
            f"unknown placeholder {{{name}}} in {text!r}; known: {named}; "
            f"write {{{{{name}}}}} for the braces themselves (no shell reads the command)"
        )
    return found


def split(text: str) -> list[str]:
    """The words of a text, as a shell would split it.

    Raises:
        InputError: a quote is open.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(f"{text!r} cannot be split into words: {error}") from None


def fill(text: str, values: Mapping[str, str], style: str, overrides: Mapping[str, Any]) -> list[str]:
    """The words of a command, its placeholders filled; `{overrides}` becomes as many as there are."""
    words = []
    for word in split(text):
        if word == "{overrides}":
            words += styles.as_words(style, overrides)
        else:
            words.append(_PLACEHOLDER.sub(lambda match: match[1] or values[match[2]], word))
    return words


def filled(value: Any, values: Mapping[str, str]) -> Any:
    """The value of an override, its placeholders filled."""
    if isinstance(value, list | tuple):
        return tuple(filled(item, values) for item in value)
    if not isinstance(value, str):
        return value
    return _IN_VALUE.sub(lambda match: match[1] or values[match[2]], value)


def check_overrides(commands: Sequence[str], style: str, overrides: Mapping[str, Any]) -> None:
    """Whether overrides can be written in a style, and commands and overrides together tell seed and folder.

    Raises:
        InputError: a name cannot, a value has an unknown placeholder, or one that is needed is missing.
    """
    styles.check_names(style, overrides)
    used = {name for command in commands for name in _placeholders(command)}
    for value in overrides.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, str):
                used |= _placeholders(item, OF_RUN, _IN_VALUE)
    for name, why in (("seed", "every seed would train the same"), ("out", "nothing says where it writes")):
        if name not in used:
            raise InputError(f"no {{{name}}} in the command {commands[0]!r}, nor in a value of set: {why}")


def _files(resume: str) -> list[str]:
    return [word[word.index("{out}") :] for word in split(resume) if "{out}/" in word]


def resume_file(resume: str, values: Mapping[str, str]) -> str:
    """The path or glob of the file that a command is resumed from."""
    return fill(shlex.quote(_files(resume)[0]), values, "env", {})[0]
