"""Blocks as LaTeX: a float for each table. Text before the first table becomes its caption."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TextIO

from ..blocks import Block, BulletList, Document, NamedValues, Sentence, Table
from ..tables import CROSS, TICK

_ESCAPES = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    TICK: r"$\checkmark$",
    CROSS: r"$\times$",
}


def escape(text: str) -> str:
    """Escape text so that LaTeX prints it literally."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def _numbers(text: str) -> str:
    """Text with real minus signs in signed numbers."""
    return re.sub(r"(?<![\w.])[+-]\d+(?:,\d{3})*(?:\.\d+)?", r"$\g<0>$", escape(text))


def render(document: Document, out: TextIO) -> None:
    """Write table environments; needs the packages booktabs and amssymb."""
    label = "tab:" + "".join(c if c.isalnum() else "-" for c in document.name)
    floats: list[tuple[Table, list[str], list[str]]] = []
    before: list[str] = []
    for _, block in document.blocks:
        if isinstance(block, Table):
            title = [f"{block.title}."] if block.title else []
            floats.append((block, [*before, *title, *filter(None, [block.caption])], []))
            before = []
        else:
            (floats[-1][2] if floats else before).extend(_lines(block))
    out.write("% needs \\usepackage{booktabs,amssymb}\n")
    for table, caption, notes in floats:
        own = f"{label}-{'-'.join(table.title.lower().split())}" if table.title else label
        out.write("\n".join([*_float(table, own, " ".join(caption), notes), "", ""]))


def _lines(block: Block) -> Iterator[str]:
    match block:
        case Sentence(text):
            yield text if text.endswith(".") else f"{text}."
        case BulletList(_, lines):
            yield from lines
        case NamedValues(_, pairs, local):
            yield "; ".join(f"{key}: {value}" for key, value in pairs if key not in local) + "."


def _float(table: Table, label: str, caption: str, notes: list[str]) -> Iterator[str]:
    """A table as a float, with text columns left-aligned and numbers centred."""
    columns = "".join("l" if table.is_text(index) else "c" for index in range(len(table.head)))
    yield from ("\\begin{table}", "\\centering")
    yield from (f"\\caption{{{_numbers(caption)}}}", f"\\label{{{label}}}")
    yield from (f"\\begin{{tabular}}{{{columns}}}", "\\toprule")
    yield from (" & ".join(map(escape, table.head)) + r" \\", "\\midrule")
    for i, row in enumerate(table.rows):
        if i >= len(table.rows) - table.closing:
            yield "\\midrule"
        cells = [
            rf"\textbf{{{_numbers(cell)}}}" if (i, j) in table.bold else _numbers(cell) or "--"
            for j, cell in enumerate(row)
        ]
        yield " & ".join(cells) + r" \\"
    yield from ("\\bottomrule", "\\end{tabular}")
    if notes:
        yield from ("\\par\\smallskip\\footnotesize\\raggedright", *(f"{_numbers(n)} \\par" for n in notes))
    yield "\\end{table}"
