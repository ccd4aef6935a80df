"""Blocks as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from ..blocks import BulletList, Document, NamedValues, Sentence, Table

MARKS = {"warning": "> **{}**", "answer": "**{}**"}


def escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table, with the first column left-aligned and the others right-aligned."""
    rule = [":---", *["---:"] * (len(head) - 1)]
    lines = [[escape(c) for c in head], rule, *[[escape(c) for c in row] for row in rows]]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines) + "\n"


def render(document: Document, out: TextIO) -> None:
    """Write a heading for the document and for each titled block."""
    out.write(f"# {escape(document.title)}\n\n")
    for _, block in document.blocks:
        if title := getattr(block, "title", ""):
            out.write(f"## {escape(title)}\n\n")
        match block:
            case Sentence(text, role):
                out.write(MARKS.get(role, "{}").format(escape(text)) + "\n\n")
            case Table(_, head, rows, caption, bold):
                marked = [
                    [f"**{cell}**" if (i, j) in bold else cell for j, cell in enumerate(row)]
                    for i, row in enumerate(rows)
                ]
                out.write(table(head, marked) + (f"{escape(caption)}\n\n" if caption else ""))
            case BulletList(_, lines):
                out.write("".join(f"- {escape(line)}\n" for line in lines) + "\n")
            case NamedValues(_, pairs):
                out.write("".join(f"- {escape(f'{key}: {value}')}\n" for key, value in pairs) + "\n")
