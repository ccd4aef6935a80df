"""The report as a table in the terminal."""

from __future__ import annotations

from typing import TextIO

from .. import conditions
from ..answer import answer
from ..model import AnalysisReport, table_head, table_rows
from ..text import interval, signed


def render(report: AnalysisReport, out: TextIO) -> None:
    """Print the gap, the factors with their intervals and verdicts, and what bounds their meaning."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out, highlight=False, width=None if out.isatty() else 132)
    for line in conditions.warnings(report):
        console.print(Text(line, style="bold yellow"))
    console.print(Text(answer(report), style="bold"))
    console.print(Text(report.headline))
    if report.factors:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(table_head(report)):
            right = index in (1, 2, 3, 5, 6, 7)
            table.add_column(column, justify="right" if right else "left", no_wrap=index in (0, 1, 2))
        for row in table_rows(report.factors):
            style = "red" if "contradicted" in row[4] else "green" if row[4] == "supported" else ""
            table.add_row(*(Text(cell, style=style if i == 4 else "") for i, cell in enumerate(row)))
        for extra in (report.not_toggled, report.gap):
            if extra is not None:
                table.add_section()
                table.add_row(*(Text(cell) for cell in table_rows([extra])[0]))
        console.print(table)
    for line in filter(None, (report.sum_line, conditions.untoggled_line(report))):
        console.print(Text(line))
    if report.interactions:
        table = Table(title="Two-way interactions", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("factors", "estimate", f"{report.percent} interval"):
            table.add_column(column, justify="left" if column == "factors" else "right")
        for pair in report.interactions:
            table.add_row(pair.name, pair.estimate, pair.interval)
        console.print(table)
    cells = Table(title="Cells", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("cell", "runs", report.metric, f"{report.percent} interval"):
        cells.add_column(column, justify="left" if column == "cell" else "right")
    for cell in report.analysis.cells.to_dict("records"):
        name = str(cell["cell"])
        spread = interval(cell["low"], cell["high"]).replace("+", "")
        named = name == report.analysis.baseline and name != report.baseline_name
        label = f"{name} ({report.baseline_name})" if named else name
        cells.add_row(Text(label), str(cell["runs"]), signed(cell["mean"]).lstrip("+"), spread)
    console.print(cells)
    facts = Table(title="Measured at", title_justify="left", box=None, show_header=False, pad_edge=False)
    for key, value in conditions.measured_at(report):
        facts.add_row(Text(key, style="dim"), Text(value))
    console.print(facts)
    for title, lines in conditions.sections(report):
        console.print(Text(f"\n{title}", style="bold"))
        for line in lines:
            console.print(Text(f"- {line}"))
