"""From where the scores are to a report, and a report's folder on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ablate.ablations.factors import Factor, claims_on
from ablate.studies.plan import find, study_path

from .collect import (
    StudyInfo,
    metrics_of,
    scores_from_file,
    scores_from_mlflow,
    scores_from_study,
)
from .forms import write
from .forms.content import AnalysisReport
from .ingest import analyze


class NoScoresError(Exception):
    """No run of the study has been scored yet."""


def report_of(
    scores: pd.DataFrame, info: StudyInfo, metric: str | None = None, margin: float | None = None
) -> AnalysisReport:
    """Analyse scores with the claims, margin and design of their study.

    Args:
        metric: column to compare; none: the study's endpoint.
        margin: smallest difference that matters; none: the study's for its endpoint.

    Raises:
        NoScoresError: there is nothing to analyse yet.
        ValueError: the metric is not among the scores.
    """
    metric = metric or info.metric
    if not any(run.scored for run in info.runs):
        states = ", ".join(
            f"{n} {s}" for s, n in pd.Series([r.state for r in info.runs]).value_counts().items()
        )
        raise NoScoresError(f"no run of {info.name} has scores yet ({states})")
    if metric not in scores.columns:
        raise ValueError(f"no metric {metric!r} in the scores (there: {', '.join(metrics_of(scores))})")
    claims = None
    if info.plan:
        claims = claims_on([Factor.model_validate(factor) for factor in info.factors], metric)
    if margin is None and metric == info.metric:
        margin = info.margin
    analysis = analyze(
        scores,
        base=info.base,
        baseline=_scored_baseline(scores, info),
        metric=metric,
        claims=claims,
        margin=margin,
        factors=list(info.base),
        levels={f["name"]: list(f["levels"]) for f in info.factors} or None,
        constraints=info.plan.get("constraints", ()),
        design=info.plan.get("design"),
        planned={cell["name"]: cell["levels"] for cell in info.plan.get("cells", ())},
    )
    return AnalysisReport(analysis, info, scores)


def _scored_baseline(scores: pd.DataFrame, info: StudyInfo) -> str | None:
    """The baseline if the scores know it: a study that is still running may not have reached it."""
    return info.baseline if info.baseline in set(scores["cell"].unique()) else None


def report_of_study(root: Path | str, name: str | None = None, metric: str | None = None) -> AnalysisReport:
    """The report of a study from its run directories; none: the most recent study."""
    return report_of(*scores_from_study(root, name), metric=metric)


def report_of_file(
    path: Path | str,
    base: Mapping[str, str] | str,
    baseline: str | None = None,
    metric: str | None = None,
    margin: float | None = None,
) -> AnalysisReport:
    """The report of results trained elsewhere; see `reports.collect.scores_from_file`."""
    scores, info = scores_from_file(path, base, baseline, metric or "pesq_wb")
    return report_of(scores, info, metric, margin)


def report_of_mlflow(
    tracking_uri: str, experiment: str, study: str | None = None, metric: str | None = None
) -> AnalysisReport:
    """The report of a study from an MLflow server alone."""
    return report_of(*scores_from_mlflow(tracking_uri, experiment, study), metric=metric)


FILES = {
    "table.md": "md",
    "table.tex": "latex",
    "effects.csv": "csv",
    "report.json": "json",
    "report.html": "html",
}


def write_folder(report: AnalysisReport, folder: Path) -> Path:
    """Write every form and the figures (PNG and PDF) into a folder; returns the HTML file."""
    from .figures import save_all

    for name, format in FILES.items():
        write(report, format, folder / name)
    save_all(report, folder / "figures")
    return folder / "report.html"


def study_folder(root: Path | str, name: str | None = None) -> Path:
    """Where the report of a study belongs."""
    root = Path(root)
    return study_path(root, find(root, name)) / "report"
