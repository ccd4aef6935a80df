"""How a cell's overrides are written for a program: as words of its command, as variables, or in a file.

For `lr: 0.1`, `causal: false`, `sizes: [1, 2]`, `model.name: null`:

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
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ablate.models.errors import InputError

from . import config_files

Overrides = Mapping[str, Any]
FILES = ("yaml", "config")
"""Styles that put overrides into a file."""
KEY, VALUE = "{key}", "{value}"
_VARIABLE = re.compile(r"[A-Za-z_]\w*")
_PLAIN = re.compile(r"[A-Za-z0-9_/+.%*@?|\-][A-Za-z0-9_/+.%*@?|:\-]*")
"""Text that Hydra takes for one value without quotes."""


def _argparse(overrides: Overrides) -> Iterator[str]:
    for key, value in overrides.items():
        if isinstance(value, bool):
            yield f"--{key}" if value else f"--no-{key}"
        elif isinstance(value, list | tuple):
            yield from (f"--{key}", *map(_text, value))
        elif value is not None:
            yield f"--{key}={value}"


def _flags(overrides: Overrides) -> Iterator[str]:
    return _argparse({key: value for key, value in overrides.items() if value is not False})


def _hydra(overrides: Overrides) -> Iterator[str]:
    for key, value in overrides.items():
        yield f"{key}={hydra_value(value)}"


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
    return {True: "true", False: "false", None: "null"}.get(value, str(value))


WORDS: dict[str, Callable[[Overrides], Iterator[str]]] = {
    "argparse": _argparse,
    "flags": _flags,
    "hydra": _hydra,
}
STYLES = (*WORDS, *FILES, "env")


def is_template(style: str) -> bool:
    return KEY in style


def check_style(style: str) -> str:
    """Raises InputError if there is no such style."""
    if is_template(style):
        if VALUE not in style:
            raise InputError(f"overrides {style!r} has {KEY} but no {VALUE}")
        shlex.split(style)
    elif style not in STYLES:
        raise InputError(
            f"unknown overrides {style!r}; known: {', '.join(STYLES)}, or a template, '-p {KEY} {VALUE}'"
        )
    return style


def as_words(style: str, overrides: Overrides) -> list[str]:
    """Overrides as words of a command."""
    if is_template(style):
        return [word for key, value in overrides.items() for word in _from_template(style, key, value)]
    return list(WORDS[style](overrides))


def _from_template(style: str, key: str, value: Any) -> Iterator[str]:
    items = value if isinstance(value, list | tuple) else (value,)
    for word in shlex.split(style):
        yield word.replace(KEY, key).replace(VALUE, ",".join(map(_text, items)))


def variables(overrides: Overrides) -> dict[str, str]:
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


def check_names(style: str, overrides: Overrides) -> None:
    """Whether overrides can be written in a style.

    Raises:
        InputError: a name cannot.
    """
    for key in overrides:
        if not key or key != key.strip() or "=" in key or any(c.isspace() for c in key):
            raise InputError(f"override {key!r} is not valid: names cannot contain blanks or '='")
    if style == "env":
        variables(overrides)
    elif style == "yaml":
        config_files.text({}, overrides, ".yaml")
