"""What a field of a configuration says of itself: the markers that stand in its `Annotated`. Needs no torch.

A new field of `ModelConfig`, `Recipe` or `Evaluation` is written with `Added` and the default that leaves
everything as it was before there was the field:

    ema: Annotated[Fraction, Added] = Field(0.0, description="...")
    ema_start: Annotated[Fraction, Added, ActiveUnless("ema", 0.0)] = Field(0.5, description="...")

Runs trained before then keep their signatures, and their files are read with that default.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from .errors import InputError

PARTS = ("split", "encoder", "cross-band", "decoder", "other")
"""The parts of a network; `other` is what a plug-in's network has beside the four."""


Bookkeeping = "Bookkeeping"
"""The field does not change the result: it is no part of a signature."""

Added = "Added"
"""The field came after the first signatures, and its default is neutral: no part of one at that value.

That default can never change. Nor can that of a field without this mark which is not always read: where it is
not, its default stands in the signature, or the value of `InactiveValue`.
"""


class Affects:
    """The parts of a network that the field is about; without it, none in particular."""

    def __init__(self, *parts: str) -> None:
        self.parts = parts


class ActiveIf:
    """The field is read where another of its configuration has one of some values. One such mark suffices."""

    def __init__(self, field: str, *values: Any) -> None:
        self.field, self.values = field, values

    def holds(self, value: Any) -> bool:
        parts = value.split("+") if isinstance(value, str) else [value]
        return any(part in self.values for part in parts)


class ActiveUnless(ActiveIf):
    """The field is read where another of its configuration has none of some values."""

    def holds(self, value: Any) -> bool:
        return value not in self.values


@dataclass(frozen=True)
class InactiveValue:
    """What stands for the field in a signature where it is not read, in place of its default."""

    value: Any


@dataclass(frozen=True)
class FieldMarks:
    """What a field says of itself.

    Attributes:
        default, inactive: its default, and what stands for it where it is not read, as JSON has them.
        conditions: it is read where one of them holds, or where there are none.
    """

    default: Any = None
    inactive: Any = None
    bookkeeping: bool = False
    added: bool = False
    parts: tuple[str, ...] = ()
    conditions: tuple[ActiveIf, ...] = ()


@cache
def marks_of(kind: type[BaseModel], name: str) -> FieldMarks:
    """The facts of a field of a configuration's class."""
    field = kind.model_fields[name]
    default = to_jsonable_python(field.get_default(call_default_factory=True))
    return FieldMarks(
        default=default,
        inactive=next((mark.value for mark in field.metadata if isinstance(mark, InactiveValue)), default),
        bookkeeping=Bookkeeping in field.metadata,
        added=Added in field.metadata,
        parts=next((mark.parts for mark in field.metadata if isinstance(mark, Affects)), ()),
        conditions=tuple(mark for mark in field.metadata if isinstance(mark, ActiveIf)),
    )


def split_settings(
    items: Iterable[str], example: str, kind: str = "setting", repeated: Container[str] = ()
) -> list[tuple[str, str]]:
    """Names and the texts of their values, from `name=value` texts.

    Args:
        repeated: names that may be given more than once.

    Raises:
        InputError: an item has no name or no `=`, or a name is given twice.
    """
    found: list[tuple[str, str]] = []
    for item in items:
        name, separator, value = item.partition("=")
        if not (name and separator):
            raise InputError(f"{kind} {item!r} is not valid; write name=value, e.g. {example}")
        if name not in repeated and any(name == other for other, _ in found):
            raise InputError(f"{kind} {name!r} is given twice")
        found.append((name, value))
    return found


def parse_value(text: str) -> Any:
    """The value of a level or a `--set` from its text: a JSON list, a number, true/false/null, or text."""
    if text.startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{text!r} is not a JSON list ({error.msg}); words need double quotes") from None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "null": None}.get(text, text)
