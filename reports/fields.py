"""Reports for programs: JSON fields with a schema version, and CSV rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from ablate.ablations.inference.analysis import records
from ablate.models.console import plain

from . import caveats
from .blocks import Fields, Rows
from .facts import facts, leader
from .formatting import text
from .heterogeneity import mixed
from .model import AnalysisReport
from .run_warnings import broken_outputs
from .summary import answer

SCHEMA = "ablate.report"
SCHEMA_VERSION = 1
"""Increased when a field changes its meaning or is removed, not when one is added."""
PLANNED = (
    *("base", "baseline", "recipe", "corpus", "endpoint", "git_commit", "machine", "audit", "tune"),
    "start_from",
)
"""Fields of the plan to include in the JSON."""
OF_RUNS = ("cell", "seed", "training", "evaluation", "state", "cause", "scored", "imported")
OF_UNITS = ("least", "most", "without", "without_estimate", "carried", "others_low", "others_high")
OF_CORPORA = ("name", "utterances", "problem", "left_out", "best")


def fields(report: AnalysisReport) -> Iterator[Fields]:
    """The fields of the analysis, then those of the report and its study."""
    yield Fields(report.analysis.to_dict())
    yield Fields({"schema": SCHEMA, "version": SCHEMA_VERSION})
    yield Fields({"facts": facts(report), "leader": leader(report)})
    yield Fields({"answer": answer(report), "headline": report.headline, "study": _study(report)})
    yield Fields(
        {
            "warnings": caveats.warnings(report),
            "notes": caveats.notes(report),
            "broken_outputs": broken_outputs(report),
            "run_problems": caveats.run_problems(report),
            "measured_at": dict(caveats.measured_at(report)),
        }
    )
    yield Fields(
        {
            "mixed": [
                {
                    "fact": fact,
                    "values": values,
                    "contrasts": [{"kind": c.kind, "name": c.name} for c in found],
                }
                for fact, values, found in mixed(report)
            ],
            "untoggled": [
                {"path": d.path, "all_on": text(d.a), "baseline": text(d.b)}
                for d in caveats.untoggled(report)
            ],
            "first_test": report.test_name,
            "extra_test_sets": [
                {name: getattr(corpus, name) for name in OF_CORPORA}
                | {"effects": records(corpus.effects), "cells": records(corpus.cells)}
                for corpus in report.test_sets
            ],
            "noisy_input": report.noisy_input,
            "parameter_changes": report.parameter_text,
            "energy_joules": dict(report.info.energy),
            "agreement": None if report.agreement is None else asdict(report.agreement),
        }
    )
    tables: dict[str, Sequence[Any]] = {
        "ensembles": report.ensembles,
        "ranking": report.analysis.ranking,
        "costs": report.costs,
        "pareto": report.pareto(),
        "convergence": report.convergence,
        "claims_judged": report.judged,
        "by_step_budget": report.by_step_budget,
        "slopes": report.slopes,
    }
    yield Fields({name: [asdict(row) for row in found] for name, found in tables.items()})


def json_fields(report: AnalysisReport) -> dict[str, Any]:
    """All of `fields` in one mapping, with values of plain JSON types."""
    return plain({name: value for part in fields(report) for name, value in part.values.items()})


def _study(report: AnalysisReport) -> dict[str, Any]:
    info, plan = report.info, report.info.plan
    planned = plan.model_dump(mode="json", include=set(PLANNED)) if plan else dict.fromkeys(PLANNED)
    return {
        "name": info.name,
        "source": info.source,
        **planned,
        "demo_corpus": info.is_demo,
        "parameters": {name: cell.parameters for name, cell in info.cells.items()},
        "runs": [{name: getattr(run, name) for name in OF_RUNS} for run in info.runs],
    }


def rows(report: AnalysisReport) -> Iterator[Rows]:
    """The CSV rows: every effect, then those in the guardrail metrics, then those on extra test sets.

    Every row has `corpus` (the test set), `utterances`, `interval` (the kind of interval) and `seeds`.
    `mixes` names the facts (device, precision, ...) that confound the contrast; see `reports.heterogeneity`.
    `slope`, with its interval or `slope_note`, is how fast an effect still changes at the end; see
    `reports.slopes`. On an extra test set, `difference` is the effect on the first test set minus this one,
    and `words` its verdict.

    The rows do not contain times, so equal results give identical files.
    """
    analysis = report.analysis
    effects = analysis.effects.copy()
    effects.insert(0, "metric", analysis.metric)
    found = {(slope.kind, slope.name): slope for slope in report.slopes}
    slopes = [found.get(key) for key in zip(effects["kind"], effects["name"], strict=True)]
    for column, field in (("slope", "estimate"), ("slope_low", "low"), ("slope_high", "high")):
        effects[column] = [getattr(slope, field, None) for slope in slopes]
    units = {(row.column, row.kind, row.name): row for row in analysis.by_unit}
    for column in dict.fromkeys(row.column for row in analysis.by_unit):
        mine = [units.get((column, *key)) for key in zip(effects["kind"], effects["name"], strict=True)]
        for name in OF_UNITS:
            effects[f"{column}_{name}"] = [getattr(row, name, None) for row in mine]
    effects["slope_note"] = [slope.why if slope else "" for slope in slopes]
    frames = [effects, analysis.guardrails] if len(analysis.guardrails) else [effects]
    frames = [frame.assign(corpus=report.test_name, utterances=analysis.utterances) for frame in frames]
    frames += [
        corpus.effects.assign(metric=analysis.metric, corpus=corpus.name, utterances=corpus.utterances)
        for corpus in report.test_sets
        if not corpus.problem
    ]
    across: dict[tuple[str, str], list[str]] = {}
    for fact, _, contrasts in mixed(report):
        for contrast in contrasts:
            across.setdefault((contrast.kind, contrast.name), []).append(fact)
    fewest, most = report.seeds
    for frame in frames:
        mixes = [", ".join(across.get(key, ())) for key in zip(frame["kind"], frame["name"], strict=True)]
        seeds = most if fewest == most else f"{fewest} to {most}"
        yield Rows(frame.assign(interval=caveats.intervals(report), seeds=seeds, mixes=mixes))
