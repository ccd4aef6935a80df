"""Marks for the fields of a configuration, to put into `Annotated`. Needs no torch.

Write a new field of `ModelConfig`, `Recipe` or `Evaluation` with `Added` and a default that changes nothing:

    ema: Annotated[Fraction, Added] = Field(0.0, description="...")
    ema_start: Annotated[Fraction, Added, ActiveUnless("ema", 0.0)] = Field(0.5, description="...")

Earlier runs then keep their signatures, and files without the field get that default.
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
"""The parts of a network; `other` is the rest of a plug-in's network."""


Bookkeeping = "Bookkeeping"
"""The field does not change the result and is not part of a signature."""

Added = "Added"
"""The field is newer than the first signatures. At its default, which is neutral, signatures leave it out.

That default must never change. Neither may the default of an unmarked field that is not always active: while
the field is inactive, signatures contain its default (or its `InactiveValue`).
"""


class Affects:
    """The parts of a network that the field changes."""

    def __init__(self, *parts: str) -> None:
        self.parts = parts


class ActiveIf:
    """The field is read if another field has one of the given values. One of several such marks must hold."""

    def __init__(self, field: str, *values: Any) -> None:
        self.field, self.values = field, values

    def holds(self, value: Any) -> bool:
        parts = value.split("+") if isinstance(value, str) else [value]
        return any(part in self.values for part in parts)


class ActiveUnless(ActiveIf):
    """The field is read unless another field has one of the given values."""

    def holds(self, value: Any) -> bool:
        return value not in self.values


@dataclass(frozen=True)
class InactiveValue:
    """The field's value in signatures while it is inactive; without this mark, its default."""

    value: Any


@dataclass(frozen=True)
class FieldMarks:
    """The marks of a field.

    Attributes:
        default, inactive: its default, and its value in signatures while it is inactive, both as JSON values.
        conditions: the field is active if one of them holds, or if there are none.
    """

    default: Any = None
    inactive: Any = None
    bookkeeping: bool = False
    added: bool = False
    parts: tuple[str, ...] = ()
    conditions: tuple[ActiveIf, ...] = ()


@cache
def marks_of(kind: type[BaseModel], name: str) -> FieldMarks:
    """The marks of a configuration class' field."""
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
    """Split `name=value` texts into names and the texts of their values.

    Args:
        example: an example for error messages.
        kind: the word for an item in error messages.
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
    """Parse the value of a level or of `--set`: a JSON list, a number, true, false, null, or text."""
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
