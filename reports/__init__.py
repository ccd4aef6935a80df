"""Estimates, tables, figures and the command line. Does not need torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate.ablations.inference.analysis import Analysis

    from .build import report_of_study
    from .ingest import analyze

__all__ = ["Analysis", "analyze", "report_of_study"]

_PLACES = {
    "Analysis": "ablate.ablations.inference.analysis",
    "analyze": "ablate.reports.ingest",
    "report_of_study": "ablate.reports.build",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'ablate.reports' has no attribute {name!r}")
