"""The content of a report: blocks in sections. Each form (output format) renders every kind of block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Sentence:
    """Text. `role` is `warning`, `answer` or empty."""

    text: str
    role: str = ""


@dataclass(frozen=True)
class Table:
    """Text by row and column.

    Attributes:
        caption: how to read the table.
        bold: the (row, column) pairs shown in bold.
        closing: number of last rows below a rule.
        words: columns of text, besides the first; all others are numbers.
        spare: columns to drop on a narrow terminal, in this order.
        folded: whether the table is collapsed at first, in forms that support it.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    caption: str = ""
    bold: frozenset[tuple[int, int]] = frozenset()
    closing: int = 0
    words: tuple[str, ...] = ()
    spare: tuple[str, ...] = ()
    folded: bool = False

    @classmethod
    def of(
        cls, title: str, items: Iterable[Any], columns: Mapping[str, Callable[[Any], str]], **more: Any
    ) -> Table | None:
        """A table with a row per item and a column per entry of `columns` (heading -> text of an item).

        None if there are no items.
        """
        rows = [[text(item) for text in columns.values()] for item in items]
        return cls(title, [*columns], rows, **more) if rows else None

    def is_text(self, column: int) -> bool:
        return column == 0 or self.head[column] in self.words


@dataclass(frozen=True)
class BulletList:
    """Sentences as a list under a title."""

    title: str
    lines: Sequence[str]


@dataclass(frozen=True)
class NamedValues:
    """Names and values; values of the names in `local` are only meaningful on this machine."""

    title: str
    pairs: Sequence[tuple[str, str]]
    local: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pictures:
    """Figures side by side. `draw` draws a figure by its name, or returns None if its data are missing."""

    names: tuple[str, ...]
    draw: Callable[[str], Any]


@dataclass(frozen=True)
class Sounds:
    """Audio examples. `make` returns the utterances, and a sentence on what was left out."""

    make: Callable[[], tuple[Sequence[Any], str]]


@dataclass(frozen=True)
class Fields:
    """Fields of the JSON report."""

    values: Mapping[str, Any]


@dataclass(frozen=True)
class Rows:
    """Rows of the CSV report."""

    frame: pd.DataFrame


Block = Sentence | Table | BulletList | NamedValues | Pictures | Sounds | Fields | Rows


@dataclass(frozen=True)
class Document:
    """The content of one form.

    Attributes:
        name: a short name, for labels.
        blocks: (name of its section, block) for each block.
        sections: name -> title.
    """

    name: str
    title: str
    blocks: Sequence[tuple[str, Block]]
    sections: Mapping[str, str]


@dataclass(frozen=True)
class Part:
    """Blocks of one section, and the forms that show them (names, separated by spaces)."""

    section: str
    make: Callable[[Any], Iterable[Block | None]]
    forms: str


def select(parts: Iterable[Part], of: Any, form: str) -> list[tuple[str, Block]]:
    """The blocks that a form shows, each with its section. Blocks of other forms are not created."""
    return [
        (part.section, block)
        for part in parts
        if form in part.forms.split()
        for block in part.make(of)
        if block is not None
    ]
