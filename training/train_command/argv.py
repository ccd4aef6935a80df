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


def check(commands: Sequence[str], style: str, resume: str | None) -> None:
    """Whether commands can be called, the first of them with overrides in a style.

    Raises:
        InputError: quotes are open, a placeholder is unknown, or one that is needed is missing.
    """
    for command in commands:
        if not split(command):
            raise InputError("a command is empty")
        _placeholders(command)
    command, used = commands[0], _placeholders(commands[0])
    needed = None if style == "env" else "config" if style in styles.FILES else "overrides"
    if needed is not None and needed not in used:
        raise InputError(f"no {{{needed}}} in the command {command!r}: {style} overrides have no place there")
    for name in used & {"overrides", "config"} - {needed}:
        raise InputError(f"{{{name}}} in the command {command!r} is not for overrides: {style}")
    if needed == "overrides" and "{overrides}" not in split(command):
        raise InputError(f"{{overrides}} in the command {command!r} must be a word of its own")
    if resume is not None:
        if others := _placeholders(resume) - {"out", "seed", "threads"}:
            raise InputError(
                f"{{{min(others)}}} in resume {resume!r}: use {{out}} for the file to resume from"
            )
        if sum("{out}/" in word for word in split(resume)) != 1:
            raise InputError(f"resume {resume!r} must name one file below {{out}}, e.g. {{out}}/latest.pt")


def _placeholders(
    text: str, known: Collection[str] = PLACEHOLDERS, of: re.Pattern[str] = _PLACEHOLDER
) -> set[str]:
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
        words += styles.as_words(style, overrides) if word == "{overrides}" else [_put(word, values)]
    return words


def _put(text: str, values: Mapping[str, str], of: re.Pattern[str] = _PLACEHOLDER) -> str:
    return of.sub(lambda match: match[1] or values[match[2]], text)


def filled(value: Any, values: Mapping[str, str]) -> Any:
    """The value of an override, its placeholders filled."""
    if isinstance(value, list | tuple):
        return tuple(filled(item, values) for item in value)
    return _put(value, values, _IN_VALUE) if isinstance(value, str) else value


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
