"""The forms of a report: one renderer each, chosen by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ablate.models.registry import Registry

if TYPE_CHECKING:
    from ..model import AnalysisReport

FORMS = Registry(
    "format",
    {
        "table": "ablate.reports.renderers.terminal:render",
        "md": "ablate.reports.renderers.markdown:render",
        "latex": "ablate.reports.renderers.latex:render",
        "csv": "ablate.reports.renderers.table_csv:render",
        "json": "ablate.reports.renderers.table_json:render",
        "html": "ablate.reports.renderers.html:render",
        "checklist": "ablate.reports.renderers.checklist:render",
    },
)
"""Name -> `render(report, out)`, which writes the report to a stream of text."""


def write(report: AnalysisReport, format: str, out: TextIO | Path) -> None:
    """Write a report in one form, to a stream or a file.

    Raises:
        InputError: no such form.
    """
    render = FORMS[format]
    if isinstance(out, Path):
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", encoding="utf-8", newline="") as handle:
            render(report, handle)
    else:
        render(report, out)
