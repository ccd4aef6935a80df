"""Blocks in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from ablate.models.console import console, print_table

from ..blocks import BulletList, Document, NamedValues, Sentence, Table

if TYPE_CHECKING:
    from rich.table import Table as Grid

STYLES = {"warning": "bold yellow", "answer": "bold"}


def render(document: Document, out: TextIO) -> None:
    """Print the blocks, tables as wide as the terminal allows."""
    from rich.table import Table as Grid
    from rich.text import Text

    screen = console(out)
    for _, block in document.blocks:
        if getattr(block, "title", ""):
            screen.print()
        match block:
            case Sentence(text, role):
                screen.print(Text(text, STYLES.get(role, "")))
            case BulletList(title, lines):
                screen.print(Text(title, "bold"))
                for line in lines:
                    screen.print(Text(f"- {line}"))
            case NamedValues(title, pairs):
                facts = Grid(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
                for key, value in pairs:
                    facts.add_row(Text(key, "dim"), Text(value))
                print_table(facts, screen)
            case Table():
                print_table(_grid(block), screen, block.spare)
                if block.caption:
                    screen.print(Text(block.caption, "dim"))


def _grid(block: Table) -> Grid:
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(title=block.title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(block.head):
        grid.add_column(column, justify="left" if block.is_text(index) else "right")
    for i, row in enumerate(block.rows):
        if i >= len(block.rows) - block.closing:
            grid.add_section()
        grid.add_row(*(Text(cell, _style(block, i, j)) for j, cell in enumerate(row)))
    return grid


def _style(block: Table, row: int, column: int) -> str:
    cell = block.rows[row][column]
    if block.head[column] == "verdict":
        return "red" if "contradicted" in cell else "green" if "supported" in cell else ""
    return "bold" if (row, column) in block.bold else ""
