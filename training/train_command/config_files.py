"""A program's configuration file with a cell's overrides merged in, in the file's own format.

A format is one line of `FORMATS`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w
import yaml

from ablate.models.errors import InputError, listed

Tree = dict[str, Any]


_yaml: Any = partial(yaml.safe_dump, sort_keys=False, allow_unicode=True)
FORMATS: dict[str, tuple[Callable[[str], Any], Callable[[Tree], str]]] = {
    ".yaml": (yaml.safe_load, _yaml),
    ".yml": (yaml.safe_load, _yaml),
    ".json": (json.loads, partial(json.dumps, indent=4, ensure_ascii=False)),
    ".toml": (tomllib.loads, tomli_w.dumps),
}
"""Reader and writer by a file's suffix. TOML has no null: the key is left out."""


def check_ending(path: str) -> str:
    """Return a path of a known format; raise InputError for any other."""
    if Path(path).suffix.lower() not in FORMATS:
        raise InputError(f"config {path!r} has an unknown format; known: {', '.join(FORMATS)}")
    return path


def read(path: Path) -> Tree:
    """The content of a configuration file.

    Raises:
        InputError: it does not exist, cannot be read or is not a mapping.
    """
    try:
        tree = FORMATS[path.suffix.lower()][0](path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path} contains one {type(tree).__name__} instead of names with values")
    return tree


def text(base: Tree, overrides: Mapping[str, Any], ending: str) -> str:
    """The text of a file with overrides merged into a base; raises as `merged`."""
    return FORMATS[ending][1](merged(base, overrides, ending))


def merged(base: Tree, overrides: Mapping[str, Any], ending: str) -> Tree:
    """A base with overrides merged in; a dotted name descends into groups. A text takes the type of the
    base's value, or else becomes a number if it reads as one. `~name` removes a setting or group.

    Raises:
        InputError: a name is both a value and a group, or a setting to remove does not exist.
    """
    tree = deepcopy(base)
    for key, value in overrides.items():
        place, last = _place(tree, key.removeprefix("~"))
        like = place.get(last)
        if key.startswith("~"):
            if last not in place:
                raise InputError(f"override {key!r}: the configuration file has no such setting to remove")
            del place[last]
        elif isinstance(like, dict):
            raise InputError(
                f"override {key!r} is a group of settings; name one below it, or remove it with ~{key}"
            )
        elif value is None and ending == ".toml":
            place.pop(last, None)
        else:
            place[last] = typed(value, like)
    return tree


def at(tree: Tree, name: str) -> Any:
    """The setting or group of a dotted name, everything for an empty one; InputError if it does not exist."""
    found: Any = tree
    for part in filter(None, name.split(".")):
        if not isinstance(found, dict) or part not in found:
            raise InputError(
                f"the configuration file has no setting {name!r}; it has {listed(list(tree), 12)}"
            )
        found = found[part]
    return found


def _place(tree: Tree, key: str) -> tuple[Tree, str]:
    """The mapping that contains a dotted name, and the last part of the name."""
    if key in tree or "." not in key:
        return tree, key
    group, rest = key.split(".", 1)
    below = tree.setdefault(group, {})
    if not isinstance(below, dict):
        raise InputError(f"override {key!r}: {group!r} is already a value, not a group")
    return _place(below, rest)


def typed(value: Any, like: Any = None) -> Any:
    """A value for a file: a text if `like` is one, a number if it reads as one."""
    if isinstance(value, list | tuple):
        first = like[0] if isinstance(like, list) and like else None
        return [typed(item, first) for item in value]
    if isinstance(value, str) and not isinstance(like, str):
        for kind in (float,) if isinstance(like, float) else (int, float):
            with suppress(ValueError):
                return kind(value)
    return value


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a file by dotted name."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
