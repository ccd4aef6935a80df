"""The items of reporting checklists, filled from the study, as Markdown; gaps are marked."""

from __future__ import annotations

from typing import TextIO

from ..checklist import checklists
from ..model import AnalysisReport
from .markdown import escape


def render(report: AnalysisReport, out: TextIO) -> None:
    """Write each checklist as a section; `GAP` marks what its authors have to add."""
    found = checklists(report)
    gaps = sum(bool(item.gap) for items in found.values() for item in items)
    out.write(f"# {escape(report.info.name)}: checklists\n\n")
    out.write(f"Filled from the study. **GAP** marks the {gaps} items in which something is left to you.\n\n")
    for title, items in found.items():
        out.write(f"## {title}\n\n")
        for item in items:
            gap = f"**GAP**: {item.gap}." if item.gap else ""
            said = " ".join(filter(None, (item.answer, gap)))
            out.write(f"- **{item.number}** {item.asks}: {escape(said)}\n")
        out.write("\n")
