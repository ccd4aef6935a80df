"""Estimates, tables, figures and the command line. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate.ablations.inference.analysis import Analysis, analyze

__all__ = ["Analysis", "analyze"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from ablate.ablations.inference import analysis

        return getattr(analysis, name)
    raise AttributeError(f"module 'ablate.reports' has no attribute {name!r}")
