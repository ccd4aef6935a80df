"""The report as JSON, with a schema and its version."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any, TextIO

from .content import AnalysisReport

SCHEMA = "ablate.report"
SCHEMA_VERSION = 1
"""Raised when a field changes its meaning or goes; new fields may come without."""


def document(report: AnalysisReport) -> dict[str, Any]:
    """The analysis with what is known of its study, in plain types.

    `effects` and everything else of the analysis stand at the top level; `study` says what was measured.
    """
    info, plan = report.info, report.info.plan
    runs = [
        {
            "cell": run.cell,
            "seed": run.seed,
            "training": run.training,
            "evaluation": run.evaluation,
            "state": run.state,
            "cause": run.cause,
            "scored": run.scored,
        }
        for run in info.runs
    ]
    study = {
        "name": info.name,
        "source": info.source,
        "base": plan.get("base"),
        "baseline": plan.get("baseline"),
        "recipe": plan.get("recipe"),
        "corpus": dict(info.corpus) or None,
        "demo_corpus": info.is_demo,
        "endpoint": plan.get("endpoint"),
        "git_commit": plan.get("git_commit"),
        "machine": plan.get("machine"),
        "parameters": {name: cell.get("parameters") for name, cell in info.cells.items()},
        "audit": plan.get("audit"),
        "tune": plan.get("tune"),
        "runs": runs,
    }
    extra = {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "headline": report.headline,
        "warnings": report.warnings,
        "study": study,
        "measured_at": dict(report.measured_at),
        "untoggled": [{"path": p, "all_on": a, "baseline": b} for p, a, b in report.untoggled],
        "run_problems": report.run_problems,
        "parameter_changes": report.parameter_text,
        "costs": [asdict(cost) for cost in report.costs],
        "pareto": [asdict(point) for point in report.pareto()],
        "convergence": [asdict(item) for item in report.convergence],
    }
    analysis = report.analysis.to_dict()
    return _plain({**analysis, **extra, "notes": report.notes})


def render(report: AnalysisReport, out: TextIO) -> None:
    """Write `document` as JSON; numbers that do not exist are null."""
    json.dump(document(report), out, indent=1, ensure_ascii=False, allow_nan=False)
    out.write("\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
