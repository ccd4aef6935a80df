"""From a command's text, a cell's overrides and what a run knows to the words of a process.

Overrides are written as words of the command, as variables, or in a file. For `lr: 0.1`, `causal: false`,
`sizes: [1, 2]`, `model.name: null`:

| style                   |                                                                           |
|-------------------------|---------------------------------------------------------------------------|
| `argparse`              | `--lr=0.1 --no-causal --sizes 1 2`; true is `--causal`, null is left out   |
| `flags`                 | the same, but false is left out too, as for `action="store_true"`         |
| `hydra`                 | `lr=0.1 causal=false sizes=[1,2] model.name=null`, quoted by its grammar  |
| `"-p {key} {value}"`    | `-p lr 0.1 -p causal false -p sizes 1,2 -p model.name null`               |
| `yaml`                  | a file, `{config}`, in which dotted names are nested                      |
| `config`                | the file that `config` names with the overrides merged in, as `{config}`  |
| `env`                   | variables `lr=0.1 causal=0 sizes=1,2`; true is 1, null is left out        |

A style of words is one line of `WORDS`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ablate.models.errors import InputError

from . import config_files

OF_RUN = ("seed", "out", "data", "threads", "port", "gpus", "gpu_count")
"""Placeholders of a run, in commands and in the values of overrides."""
PLACEHOLDERS = (*OF_RUN, "overrides", "config")
_PLACEHOLDER = re.compile(r"\{(\{\w*\})\}|\{(\w*)\}")
_IN_VALUE = re.compile(r"\{(\{\w+\})\}|(?<!\$)\{(\w+)\}")
"""Leaves Hydra's own `${name}` in a value unchanged."""
Overrides = Mapping[str, Any]
FILES = ("yaml", "config")
"""Styles that write overrides to a file."""
KEY, VALUE = "{key}", "{value}"
_VARIABLE = re.compile(r"[A-Za-z_]\w*")
_PLAIN = re.compile(r"[A-Za-z0-9_/+.%*@?|\-][A-Za-z0-9_/+.%*@?|:\-]*")
"""Text that Hydra reads as one value without quotes."""


def _argparse(overrides: Overrides) -> Iterator[str]:
    for key, value in overrides.items():
        if isinstance(value, bool):
            yield f"--{key}" if value else f"--no-{key}"
        elif isinstance(value, list | tuple):
            yield from (f"--{key}", *map(_text, value))
        elif value is not None:
            yield f"--{key}={value}"


def hydra_value(value: Any) -> str:
    """A value in Hydra's grammar: quoted unless it is a plain word or number."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(hydra_value, value))}]"
    text = _text(value)
    if not isinstance(value, str) or not text or _PLAIN.fullmatch(text):
        return text or "''"
    escaped = re.sub(r"(\\*)'", lambda found: 2 * found[1] + "\\'", text)
    return "'" + re.sub(r"\\+$", lambda found: 2 * found[0], escaped) + "'"


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return {True: "true", False: "false", None: "null"}.get(value, str(value))


WORDS: dict[str, Callable[[Overrides], Iterable[str]]] = {
    "argparse": _argparse,
    "flags": lambda given: _argparse({key: value for key, value in given.items() if value is not False}),
    "hydra": lambda given: [f"{key}={hydra_value(value)}" for key, value in given.items()],
}
STYLES = (*WORDS, *FILES, "env")


def check_style(style: str) -> str:
    """Return a known style; raise InputError for any other."""
    if KEY in style:
        if VALUE not in style:
            raise InputError(f"overrides {style!r} names {KEY} and no {VALUE}")
        shlex.split(style)
    elif style not in STYLES:
        raise InputError(
            f"unknown overrides {style!r}; known: {', '.join(STYLES)}, or a template, '-p {KEY} {VALUE}'"
        )
    return style


def as_words(style: str, overrides: Overrides) -> list[str]:
    """Overrides as words of a command."""
    if style in WORDS:
        return list(WORDS[style](overrides))
    return [
        word.replace(KEY, key).replace(VALUE, _text(value))
        for key, value in overrides.items()
        for word in shlex.split(style)
    ]


def variables(overrides: Overrides) -> dict[str, str]:
    """Overrides as environment variables; InputError if a name cannot be a variable."""
    found = {}
    for key, value in overrides.items():
        if not _VARIABLE.fullmatch(key):
            raise InputError(f"override {key!r} cannot be an environment variable; use letters, digits and _")
        if value is not None:
            found[key] = str(int(value)) if isinstance(value, bool) else _text(value)
    return found


def check(commands: Sequence[str], style: str, resume: str | None) -> None:
    """Check that commands can be called, the first of them with overrides in a style.

    Raises:
        InputError: a quote is open, or a placeholder is unknown or missing.
    """
    if not all(map(split, commands)):
        raise InputError("a command is empty")
    command, (used, *_) = commands[0], list(map(_placeholders, commands))
    needed = None if style == "env" else "config" if style in FILES else "overrides"
    if needed is not None and needed not in used:
        raise InputError(f"no {{{needed}}} in the command {command!r}, but {style} overrides need it")
    for name in used & {"overrides", "config"} - {needed}:
        raise InputError(f"{{{name}}} in the command {command!r} does not go with overrides: {style}")
    if needed == "overrides" and "{overrides}" not in split(command):
        raise InputError(f"{{overrides}} in the command {command!r} must be a separate word")
    if resume is not None:
        if others := _placeholders(resume) - {"out", "seed", "threads"}:
            raise InputError(f"{{{min(others)}}} in resume {resume!r}: name the file to resume in {{out}}")
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
    """The words of a text, as a shell splits it; InputError if a quote is open."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(f"{text!r} cannot be split into words: {error}") from None


def fill(text: str, values: Mapping[str, str], style: str, overrides: Mapping[str, Any]) -> list[str]:
    """The words of a command with placeholders filled; `{overrides}` becomes the words of the overrides."""
    words = []
    for word in split(text):
        words += as_words(style, overrides) if word == "{overrides}" else [_put(word, values)]
    return words


def _put(text: str, values: Mapping[str, str], of: re.Pattern[str] = _PLACEHOLDER) -> str:
    return of.sub(lambda match: match[1] or values[match[2]], text)


def filled(value: Any, values: Mapping[str, str]) -> Any:
    """The value of an override with placeholders filled."""
    if isinstance(value, list | tuple):
        return tuple(filled(item, values) for item in value)
    return _put(value, values, _IN_VALUE) if isinstance(value, str) else value


def check_overrides(commands: Sequence[str], style: str, overrides: Mapping[str, Any]) -> None:
    """Check that a style can write overrides, and that they or the commands pass the seed and the output
    folder.

    Raises:
        InputError: a name is not possible, or a placeholder is unknown or missing.
    """
    for key in overrides:
        if not key or key != key.strip() or "=" in key or any(c.isspace() for c in key):
            raise InputError(f"override {key!r}: a name has neither blanks nor '='")
    if style == "env":
        variables(overrides)
    elif style == "yaml":
        config_files.text({}, overrides, ".yaml")
    used = set[str]().union(*map(_placeholders, commands))
    for value in overrides.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            used |= _placeholders(item, OF_RUN, _IN_VALUE) if isinstance(item, str) else set()
    for name, why in {
        "seed": "every seed trains the same network",
        "out": "its outputs cannot be found",
    }.items():
        if name not in used:
            raise InputError(
                f"no {{{name}}} in the command {commands[0]!r}, nor in a value of set: otherwise {why}"
            )
