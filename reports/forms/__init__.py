"""The forms of a report: one renderer each, chosen by name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ablate.models.errors import InputError

if TYPE_CHECKING:
    from ..model import AnalysisReport

FORMATS = {
    "table": "terminal",
    "md": "markdown",
    "latex": "latex",
    "csv": "table_csv",
    "json": "table_json",
    "html": "html",
}
"""Format -> module of this package with `render(report, out)`."""


def write(report: AnalysisReport, format: str, out: TextIO | Path) -> None:
    """Write a report in one form, to a stream or a file.

    Raises:
        InputError: no such form.
    """
    if format not in FORMATS:
        raise InputError(f"unknown format {format!r}; choose from {', '.join(FORMATS)}")
    render = import_module(f".{FORMATS[format]}", __name__).render
    if isinstance(out, Path):
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", encoding="utf-8", newline="") as handle:
            render(report, handle)
    else:
        render(report, out)
