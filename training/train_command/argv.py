"""From a command's text, a cell's overrides and what a run knows to the words and variables of a process.

How overrides are written, for `lr: 0.1`, `causal: false`, `sizes: [1, 2]`, `model.name: none`:

| style      |                                                                       |
|------------|-----------------------------------------------------------------------|
| `argparse` | `--lr=0.1 --no-causal --sizes 1 2`; true is `--causal`, null is left out |
| `hydra`    | `lr=0.1 causal=false sizes=[1,2]`; null is `null`                     |
| `yaml`     | a file, `{config}`, in which dotted names are nested                  |
| `env`      | variables `lr=0.1 causal=0 sizes=1,2`; true is 1, null is left out    |
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from ablate.models.errors import InputError

PLACEHOLDERS = ("seed", "out", "data", "overrides", "config", "threads")
_PLACEHOLDER = re.compile(r"\{(\{\w*\})\}|\{(\w*)\}")
_VARIABLE = re.compile(r"[A-Za-z_]\w*")


def check(command: str, style: str, resume: str | None) -> None:
    """Whether a command can be called.

    Raises:
        InputError: quotes are open, a placeholder is unknown, or one that is needed is missing.
    """
    used = _placeholders(command)
    words = split(command)
    if not words:
        raise InputError("the command is empty")
    for name, why in (("seed", "every seed would train the same"), ("out", "nothing says where it writes")):
        if name not in used:
            raise InputError(f"no {{{name}}} in the command {command!r}: {why}")
    by_words = style in ("argparse", "hydra")
    needed, other = ("overrides", "config") if by_words else ("config", "overrides")
    if style != "env" and needed not in used:
        raise InputError(f"no {{{needed}}} in the command {command!r}: {style} overrides have no place there")
    if other in used or (style == "env" and needed in used):
        wrong = other if other in used else needed
        raise InputError(f"{{{wrong}}} in the command {command!r} is not for overrides: {style}")
    if by_words and "{overrides}" not in words:
        raise InputError(f"{{overrides}} in the command {command!r} must be a word of its own")
    if resume is not None:
        if others := _placeholders(resume) - {"out", "seed", "threads"}:
            raise InputError(
                f"{{{min(others)}}} in resume {resume!r}: use {{out}} for the file to resume from"
            )
        if len(_files(resume)) != 1:
            raise InputError(f"resume {resume!r} must name one file below {{out}}, e.g. {{out}}/latest.pt")


def _placeholders(text: str) -> set[str]:
    found = {match[2] for match in _PLACEHOLDER.finditer(text) if match[2] is not None}
    if unknown := found - set(PLACEHOLDERS):
        known = " ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise InputError(
            f"unknown placeholder {{{min(unknown)}}} in {text!r}; known: {known}; "
            f"write {{{{{min(unknown)}}}}} for the braces themselves (no shell reads the command)"
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
            words += _ARGUMENTS[style](overrides)
        else:
            words.append(_PLACEHOLDER.sub(lambda match: match[1] or values[match[2]], word))
    return words


def _files(resume: str) -> list[str]:
    return [word[word.index("{out}") :] for word in split(resume) if "{out}/" in word]


def resume_file(resume: str, values: Mapping[str, str]) -> str:
    """The path of the file that a command is resumed from."""
    return fill(shlex.quote(_files(resume)[0]), values, "env", {})[0]


def _as_argparse(overrides: Mapping[str, Any]) -> Iterator[str]:
    for key, value in overrides.items():
        if isinstance(value, bool):
            yield f"--{key}" if value else f"--no-{key}"
        elif isinstance(value, list | tuple):
            yield from (f"--{key}", *map(_text, value))
        elif value is not None:
            yield f"--{key}={value}"


def _as_hydra(overrides: Mapping[str, Any]) -> Iterator[str]:
    for key, value in overrides.items():
        many = isinstance(value, list | tuple)
        yield f"{key}=[{','.join(map(_text, value))}]" if many else f"{key}={_text(value)}"


_ARGUMENTS: dict[str, Any] = {"argparse": _as_argparse, "hydra": _as_hydra}


def _text(value: Any) -> str:
    return {True: "true", False: "false", None: "null"}.get(value, str(value))


def variables(overrides: Mapping[str, Any]) -> dict[str, str]:
    """Overrides as environment variables.

    Raises:
        InputError: a name is none of a variable.
    """
    found = {}
    for key, value in overrides.items():
        if not _VARIABLE.fullmatch(key):
            raise InputError(f"override {key!r} cannot be an environment variable; use letters, digits and _")
        if isinstance(value, list | tuple):
            found[key] = ",".join(map(_text, value))
        elif value is not None:
            found[key] = str(int(value)) if isinstance(value, bool) else str(value)
    return found


def document(overrides: Mapping[str, Any]) -> str:
    """Overrides as a YAML file, dotted names nested; text that reads as a number is one.

    Raises:
        InputError: a name is both a value and a group of others.
    """
    tree: dict[str, Any] = {}
    for key, value in overrides.items():
        *groups, last = key.split(".")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                raise InputError(f"override {key!r}: {group!r} is a value already")
        if last in place:
            raise InputError(f"override {key!r} stands beside overrides below it")
        place[last] = _typed(value)
    return yaml.safe_dump(tree, sort_keys=False)


def _typed(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_typed(item) for item in value]
    for kind in (int, float):
        if isinstance(value, str):
            try:
                return kind(value)
            except ValueError:
                continue
    return value


def check_overrides(style: str, overrides: Mapping[str, Any]) -> None:
    """Whether overrides can be written in a style.

    Raises:
        InputError: a name cannot.
    """
    for key in overrides:
        if not key or key != key.strip() or "=" in key or any(c.isspace() for c in key):
            raise InputError(f"override {key!r}: a name has neither blanks nor '='")
    if style == "env":
        variables(overrides)
    elif style == "yaml":
        document(overrides)
