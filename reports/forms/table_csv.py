"""The effects as CSV: every contrast, full precision."""

from __future__ import annotations

from typing import TextIO

from ..model import AnalysisReport


def render(report: AnalysisReport, out: TextIO) -> None:
    """Write `Analysis.effects`, the metric in front."""
    frame = report.analysis.effects.copy()
    frame.insert(0, "metric", report.analysis.metric)
    frame.to_csv(out, index=False, lineterminator="\n")
