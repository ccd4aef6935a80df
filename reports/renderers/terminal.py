"""The report as a table in the terminal."""

from __future__ import annotations

from typing import TextIO

from ablate.models.console import console, print_table

from .. import caveats
from ..model import AnalysisReport
from ..summary import answer
from ..tables import (
    cells_table,
    claims_table,
    corpora_table,
    effects_head,
    effects_rows,
    guards_table,
    lengths_table,
)


def render(report: AnalysisReport, out: TextIO) -> None:
    """Print the gap, the factors with their intervals and verdicts, and what bounds their meaning."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    screen = console(out)
    for line in caveats.warnings(report):
        screen.print(Text(line, style="bold yellow"))
    screen.print(Text(answer(report), style="bold"))
    screen.print(Text(report.headline))
    if report.factors:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(effects_head(report)):
            right = index != 4 and index > 0
            table.add_column(column, justify="right" if right else "left", no_wrap=True)
        for row in effects_rows(report.factors):
            style = "red" if "contradicted" in row[4] else "green" if row[4].endswith("supported") else ""
            table.add_row(*(Text(cell, style=style if i == 4 else "") for i, cell in enumerate(row)))
        for extra in (report.not_toggled, report.gap):
            if extra is not None:
                table.add_section()
                table.add_row(*(Text(cell) for cell in effects_rows([extra])[0]))
        print_table(table, screen, spare=("parameters", "P(on > off)", "one-in", "one-out", "claimed"))
    for line in filter(None, (report.sum_line, caveats.untoggled_line(report))):
        screen.print(Text(line))
    if report.interactions:
        table = Table(title="Two-way interactions", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("factors", "estimate", f"{report.percent} interval"):
            table.add_column(column, justify="left" if column == "factors" else "right")
        for pair in report.interactions:
            table.add_row(pair.name, pair.estimate, pair.interval)
        print_table(table, screen)
    beside = guards_table(report), corpora_table(report), claims_table(report), lengths_table(report)
    for found in filter(None, (*beside, cells_table(report, wide=False))):
        table = Table(title=found.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(found.head):
            table.add_column(column, justify="right" if index else "left")
        for i, cells in enumerate(found.rows):
            table.add_row(
                *(Text(cell, "bold" if (i, j) in found.bold else "") for j, cell in enumerate(cells))
            )
        print_table(table, screen, spare=("by", "claimed of"))
        screen.print(Text(found.caption, style="dim"))
    facts = Table(title="Measured at", title_justify="left", box=None, show_header=False, pad_edge=False)
    for key, value in caveats.measured_at(report):
        facts.add_row(Text(key, style="dim"), Text(value))
    print_table(facts, screen)
    for title, lines in caveats.sections(report):
        screen.print(Text(f"\n{title}", style="bold"))
        for line in lines:
            screen.print(Text(f"- {line}"))
