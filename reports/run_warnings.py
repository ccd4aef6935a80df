"""Warnings about runs and plan: broken or misaligned outputs, unequal numbers of steps, changed scoring."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from ablate.models.errors import listed
from ablate.studies.plan import Plan
from ablate.training.metrics.registry import METRICS

from .model import AnalysisReport


def run_warnings(report: AnalysisReport) -> list[str]:
    """A sentence for each problem with the runs."""
    return [*_unequal_lengths(report), *_broken_line(report), *_lag_line(report)]


def changes(plan: Plan | None) -> list[str]:
    """Sentences on changes of scoring or claims that were made after runs had scores."""
    return [
        f"Changed on {datetime.fromtimestamp(change.time):%Y-%m-%d %H:%M}, after runs had scores: "
        f"{'; '.join(change.lines)}."
        for change in (plan.changes if plan is not None else ())
    ]


def _unequal_lengths(report: AnalysisReport) -> list[str]:
    """Sentence on a command's runs that ended at different steps."""
    plan = report.info.plan
    if plan is None or plan.train is None:
        return []
    ended: dict[int, list[str]] = {}
    for run in report.info.runs:
        if run.scored and run.metrics:
            ended.setdefault(run.step, []).append(f"{run.cell} seed {run.seed}")
    if len(ended) < 2:
        return []
    steps = "; ".join(f"{step:,} ({listed(runs, 6)})" for step, runs in sorted(ended.items()))
    return [f"Runs ended at different steps: {steps}. Effects may be due to the number of steps."]


def broken_outputs(report: AnalysisReport) -> dict[str, int]:
    """Cell -> number of broken test outputs (silent or not finite), which count as the metric's floor."""
    scores, metric = report.scores, report.analysis.metric
    if "broken" not in scores.columns:
        return {}
    broken = [metric in str(kind).split(", ") for kind in scores["broken"]]
    return dict(Counter(scores.loc[broken, "cell"].astype(str)))


def _broken_line(report: AnalysisReport) -> list[str]:
    found = broken_outputs(report)
    if not found:
        return []
    cells = ", ".join(f"{cell} {count:,}" for cell, count in found.items())
    floor = METRICS[report.analysis.metric].floor
    return [
        f"Broken outputs (silent or not finite) count as {report.metric} {floor:g}: "
        f"{sum(found.values()):,} of {len(report.scores):,} ({cells})."
    ]


def _lag_line(report: AnalysisReport) -> list[str]:
    """Sentence on cells whose outputs are not aligned with the clean speech."""
    scores = report.scores
    if "lag_ms" not in scores.columns or not scores["lag_ms"].notna().any():
        return []
    late = scores[scores["lag_ms"].notna()]
    cells = ", ".join(
        f"{cell} by {lags.median():+.0f} ms in {len(lags):,}"
        for cell, lags in late["lag_ms"].groupby(late["cell"].astype(str))
    )
    return [f"Outputs are not aligned with the clean speech, which lowers every metric: {cells}."]
