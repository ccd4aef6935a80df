"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from .. import caveats
from ..formatting import p_value
from ..model import AnalysisReport
from ..summary import answer
from ..tables import (
    Table,
    cells_table,
    claims_table,
    corpora_table,
    effects_head,
    effects_rows,
    guards_table,
    lengths_table,
    slopes_table,
)


def escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table; the first column left, the rest right."""
    rule = [":---", *["---:"] * (len(head) - 1)]
    lines = [[escape(c) for c in head], rule, *[[escape(c) for c in row] for row in rows]]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines) + "\n"


def render(report: AnalysisReport, out: TextIO) -> None:
    """Write the report as Markdown sections."""
    out.write(f"# {escape(report.title)}\n\n")
    warnings = caveats.warnings(report)
    out.write("".join(f"> **{escape(line)}**\n>\n" for line in warnings) + ("\n" if warnings else ""))
    out.write(f"**{escape(answer(report))}**\n\n{escape(report.headline)}\n\n")
    rows = effects_rows([*report.factors, *filter(None, (report.not_toggled, report.gap))])
    if rows:
        out.write(table(effects_head(report), rows))
    for line in filter(None, (report.sum_line, caveats.untoggled_line(report))):
        out.write(f"{escape(line)}\n\n")
    for beside in filter(None, (guards_table(report), corpora_table(report), claims_table(report))):
        out.write(_section(beside))
    percent = f"{report.percent} interval"
    if report.mains:
        out.write("## Main effects\n\n")
        body = [[r.name, r.estimate, r.interval, p_value(r.data.get("p_holm"))] for r in report.mains]
        out.write(table(["factor", "main effect", percent, "p (Holm)"], body))
    if report.interactions:
        out.write("## Two-way interactions\n\n")
        body = [[r.name, r.estimate, r.interval] for r in report.interactions]
        out.write(table(["factors", "estimate", percent], body))
    for found in filter(None, (slopes_table(report), lengths_table(report))):
        out.write(_section(found))
    out.write(_section(cells_table(report)))
    sections = [("Measured at", [f"{key}: {value}" for key, value in caveats.measured_at(report)])]
    for title, lines in sections + caveats.sections(report):
        out.write(f"## {title}\n\n" + "".join(f"- {escape(line)}\n" for line in lines) + "\n")


def _section(found: Table) -> str:
    """A table under its title, what stands out in bold, and its caption."""
    rows = [
        [f"**{cell}**" if (i, j) in found.bold else cell for j, cell in enumerate(line)]
        for i, line in enumerate(found.rows)
    ]
    return f"## {found.title}\n\n{table(found.head, rows)}{escape(found.caption)}\n\n"
