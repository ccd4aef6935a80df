"""The forms (output formats) of a report. Each renders the blocks of a document."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ablate.models.registry import Registry

if TYPE_CHECKING:
    from ..blocks import Document
    from ..model import AnalysisReport

FORMS = Registry(
    "format",
    {
        "table": "ablate.reports.renderers.terminal:render",
        "md": "ablate.reports.renderers.markdown:render",
        "latex": "ablate.reports.renderers.latex:render",
        "csv": "ablate.reports.renderers.data:render_csv",
        "json": "ablate.reports.renderers.data:render_json",
        "html": "ablate.reports.renderers.html:render",
        "checklist": "ablate.reports.renderers.markdown:render",
    },
)
"""Name -> `render(document, out)`, which writes a document to a text stream."""


def write(report: AnalysisReport, format: str, out: TextIO | Path) -> None:
    """Write a report in one form, to a stream or a file.

    Raises:
        InputError: the form does not exist.
    """
    from ..document import document

    FORMS[format]
    write_document(document(report, format), format, out)


def write_document(document: Document, format: str, out: TextIO | Path) -> None:
    """Write a document in one form, to a stream or a file. Creates the file's folder.

    Raises:
        InputError: the form does not exist.
    """
    render = FORMS[format]
    if isinstance(out, Path):
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", encoding="utf-8", newline="") as handle:
            render(document, handle)
    else:
        render(document, out)
