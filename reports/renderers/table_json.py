"""The report as JSON, with a schema and its version."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, TextIO

from ablate.ablations.inference.analysis import records
from ablate.models.console import plain

from .. import caveats
from ..formatting import text
from ..heterogeneity import mixed
from ..model import AnalysisReport
from ..summary import answer

SCHEMA = "ablate.report"
SCHEMA_VERSION = 1
"""Raised when a field changes its meaning or goes; new fields may come without."""
PLANNED = ("base", "baseline", "recipe", "corpus", "endpoint", "git_commit", "machine", "audit", "tune")
"""Fields of the plan that the report repeats."""


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
        **(plan.model_dump(mode="json", include=set(PLANNED)) if plan else dict.fromkeys(PLANNED)),
        "demo_corpus": info.is_demo,
        "parameters": {name: cell.parameters for name, cell in info.cells.items()},
        "runs": runs,
    }
    extra = {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "answer": answer(report),
        "headline": report.headline,
        "warnings": caveats.warnings(report),
        "study": study,
        "broken_outputs": caveats.broken_outputs(report),
        "mixed": [
            {
                "fact": fact,
                "values": values,
                "contrasts": [{"kind": c.kind, "name": c.name} for c in contrasts],
            }
            for fact, values, contrasts in mixed(report)
        ],
        "measured_at": dict(caveats.measured_at(report)),
        "untoggled": [
            {"path": d.path, "all_on": text(d.a), "baseline": text(d.b)} for d in caveats.untoggled(report)
        ],
        "run_problems": caveats.run_problems(report),
        "parameter_changes": report.parameter_text,
        "first_test": report.test_name,
        "further_tests": [
            {
                "name": corpus.name,
                "utterances": corpus.utterances,
                "problem": corpus.problem,
                "left_out": list(corpus.left_out),
                "effects": records(corpus.effects),
                "cells": records(corpus.cells),
                "best": corpus.best,
            }
            for corpus in report.corpora
        ],
        "seed_averages": [asdict(average) for average in report.averaged],
        "costs": [asdict(cost) for cost in report.costs],
        "pareto": [asdict(point) for point in report.pareto()],
        "convergence": [asdict(item) for item in report.convergence],
        "claims_judged": [asdict(item) for item in report.judged],
        "by_length": [asdict(item) for item in report.by_length],
        "agreement": None if report.agreement is None else asdict(report.agreement),
        "slopes": [asdict(item) for item in report.slopes],
    }
    analysis = report.analysis.to_dict()
    return plain({**analysis, **extra, "notes": caveats.notes(report)})


def render(report: AnalysisReport, out: TextIO) -> None:
    """Write `document` as JSON; numbers that do not exist are null."""
    json.dump(document(report), out, indent=1, ensure_ascii=False, allow_nan=False)
    out.write("\n")
