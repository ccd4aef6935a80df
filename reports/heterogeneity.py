"""Differences in device, precision or backend between runs, and the contrasts that these confound."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from ablate.ablations.inference.contrasts import Contrast

from .model import AnalysisReport

FACTS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "device": lambda summary: summary.get("device_name") or summary.get("device"),
    "precision": lambda summary: summary.get("precision"),
    "scan backend": lambda summary: summary.get("scan_backend"),
    "instruction set": lambda summary: (summary.get("instruction_set") or {}).get("torch"),
}
"""Facts from a run's summary that can change results but are not part of its configuration."""
BALANCED = 1e-9


def facts_by_cell(report: AnalysisReport, fact: str) -> dict[str, Counter[str]]:
    """For each cell, the number of its scored runs by value of a fact. Runs without the fact are left out."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for run in report.info.runs:
        value = FACTS[fact](run.summary) if run.scored else None
        if value is not None:
            found[run.cell][str(value)] += 1
    return found


def mixed(report: AnalysisReport) -> list[tuple[str, list[str], list[Contrast]]]:
    """The facts that differ between runs: (fact, values, contrasts that it confounds).

    A fact confounds a contrast if the cells with positive and with negative weight have different shares of
    its values, since part of the estimate may then be due to the fact. Cells without the fact (for example,
    networks without a scan) do not count.
    """
    result = []
    for fact in FACTS:
        cells = facts_by_cell(report, fact)
        values = sorted({value for counts in cells.values() for value in counts})
        if len(values) < 2:
            continue
        shares = {
            cell: {value: n / counts.total() for value, n in counts.items()} for cell, counts in cells.items()
        }
        confounded = [
            contrast
            for contrast in report.analysis.contrasts
            if contrast.kind != "simple" and _confounds(contrast, shares, values)
        ]
        result.append((fact, values, confounded))
    return result


def _confounds(contrast: Contrast, shares: Mapping[str, Mapping[str, float]], values: list[str]) -> bool:
    sides: list[list[float]] = []
    for sign in (1, -1):
        known = [
            (abs(w), shares[cell]) for cell, w in contrast.weights.items() if w * sign > 0 and cell in shares
        ]
        if not known:
            return False
        total = sum(weight for weight, _ in known)
        sides.append(
            [sum(weight * share.get(value, 0.0) for weight, share in known) / total for value in values]
        )
    return any(abs(a - b) > BALANCED for a, b in zip(*sides, strict=True))


def mixture_lines(report: AnalysisReport) -> list[str]:
    """`mixed` as sentences."""
    lines = []
    for fact, values, confounded in mixed(report):
        names = ", ".join(dict.fromkeys(contrast.name for contrast in confounded))
        told = (
            f"These effects compare different {fact}s, which may cause part of the difference: {names}."
            if confounded
            else "This affects no effect: both sides have equal shares."
        )
        lines.append(f"The runs differ in {fact} ({'; '.join(values)}). {told}")
    return lines
