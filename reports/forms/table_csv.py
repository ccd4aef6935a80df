"""The effects as CSV: every contrast, full precision."""

from __future__ import annotations

from typing import TextIO

from ..mixtures import mixed
from ..model import AnalysisReport


def render(report: AnalysisReport, out: TextIO) -> None:
    """Write `Analysis.effects`, the metric in front; `mixes` names what a contrast was computed across."""
    frame = report.analysis.effects.copy()
    frame.insert(0, "metric", report.analysis.metric)
    across: dict[tuple[str, str], list[str]] = {}
    for fact, _, contrasts in mixed(report):
        for contrast in contrasts:
            across.setdefault((contrast.kind, contrast.name), []).append(fact)
    frame["mixes"] = [
        ", ".join(across.get(key, ())) for key in zip(frame["kind"], frame["name"], strict=True)
    ]
    frame.to_csv(out, index=False, lineterminator="\n")
