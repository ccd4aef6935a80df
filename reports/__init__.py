"""Estimates, tables, figures and the command line. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate.ablations.inference.analysis import Analysis

    from .ingest import analyze

__all__ = ["Analysis", "analyze"]


def __getattr__(name: str) -> Any:
    if name == "analyze":
        from .ingest import analyze

        return analyze
    if name == "Analysis":
        from ablate.ablations.inference.analysis import Analysis

        return Analysis
    raise AttributeError(f"module 'ablate.reports' has no attribute {name!r}")
