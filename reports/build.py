"""Builds a report from scores, and writes its folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from ablate.ablations.claim_files import claims_from
from ablate.ablations.claims import Claim, parse_claim
from ablate.ablations.factors import claims_on, every_claim, with_claims, with_further
from ablate.models.errors import InputError
from ablate.models.registry import suggestion
from ablate.studies.analysis import analyze_study
from ablate.studies.plan import find, study_path
from ablate.training.metrics.registry import METRICS

from .elsewhere import Elsewhere
from .ingest import analyze
from .model import AnalysisReport
from .renderers import write
from .sources import StudyInfo, scores_from_study


class NoScoresError(Exception):
    """The study does not have scored runs yet."""


def report_of(
    scores: pd.DataFrame,
    info: StudyInfo,
    metric: str | None = None,
    margin: float | None = None,
    claims: Sequence[str] = (),
    guardrails: Sequence[str] = (),
    others: str | None = None,
    direction: Mapping[str, str] = MappingProxyType({}),
) -> AnalysisReport:
    """Analyse scores with the claims, margin and design of their study.

    Args:
        metric: column to compare. Default: the study's endpoint.
        margin: smallest difference that matters. Default: the study's for its endpoint, else the metric's.
        claims: `FACTOR=LOW..HIGH` or `FACTOR=LEVEL=LOW..HIGH`, in place of the factors' own. Scores of runs
            trained elsewhere do not have other claims.
        guardrails: other metrics to report besides `metric`.
        others: additional claims about a study's factors: `published`, or a YAML file.
        direction: metric -> `higher` or `lower` (is better), for metrics that the registry does not know.

    Raises:
        NoScoresError: there is nothing to analyse yet.
        InputError: a metric is not among the scores, or a claim does not name an effect.
    """
    plan = info.plan
    metric = metric or (plan.endpoint.metric if plan else "pesq_wb")
    if not any(run.scored for run in info.runs):
        states = Counter(run.state for run in info.runs)
        said = ", ".join(f"{count} {state}" for state, count in states.most_common())
        raise NoScoresError(f"no run of {info.name} has scores yet ({said})")
    _check_metrics(scores, metric, guardrails)
    stated = [parse_claim(text, metric, source="given with the report") for text in claims]
    every: Sequence[tuple[str, Claim]] = ()
    in_vain = ""
    if plan is not None:
        factors = with_claims(plan.factors, stated)
        if others is not None:
            found = claims_from(others, factors, metric)
            factors = with_further(factors, found)
            in_vain = "" if any(claim.metric == metric for _, claim in found) else others
        every = every_claim(factors, metric)
        analysis = analyze_study(plan, scores, metric, margin, claims_on(factors, metric), guardrails)
    else:
        analysis = analyze(
            scores,
            base=info.base,
            baseline=info.baseline,
            metric=metric,
            margin=margin,
            factors=list(info.base),
            claims=_by_name(stated) or None,
            guardrails=guardrails,
            direction=direction,
        )
        every = list(analysis.claims.items())
        analysis = replace(analysis, notes=(*info.notes, *analysis.notes))
    return AnalysisReport(analysis, info, scores, every, in_vain)


def _by_name(claims: Sequence[tuple[str, Claim]]) -> dict[str, Claim]:
    """Claims by name. Raises InputError if two have the same name."""
    found = dict(claims)
    if len(found) < len(claims):
        doubled = next(name for name, count in Counter(name for name, _ in claims).items() if count > 1)
        raise InputError(f"{doubled!r} has two claims; give only one")
    return found


def _check_metrics(scores: pd.DataFrame, metric: str, guardrails: Sequence[str]) -> None:
    """Raise InputError, with the most similar name, if a metric is not in the table."""
    there = [name for name in METRICS if name in scores.columns and scores[name].notna().any()]
    for name in (metric, *guardrails):
        if name not in scores.columns:
            raise InputError(f"no metric {name!r} in the scores{suggestion(name, there)}")


def report_of_study(root: Path | str, name: str | None = None, metric: str | None = None) -> AnalysisReport:
    """The report of a study (default: the most recent) from its run directories."""
    return report_of(*scores_from_study(root, name), metric=metric)


def report_of_file(
    path: Path | str,
    base: Mapping[str, str] | str,
    baseline: str | None = None,
    metric: str | None = None,
    margin: float | None = None,
    claims: Sequence[str] = (),
    guardrails: Sequence[str] = (),
    direction: Mapping[str, str] = MappingProxyType({}),
) -> AnalysisReport:
    """The report of a table, as from `ablate report --scores`; `base` gives the off level of each factor."""
    levels = base if isinstance(base, str) else ",".join(f"{name}={level}" for name, level in base.items())
    found = Elsewhere(scores=str(path), base=levels, baseline=baseline, metric=metric).read()
    return report_of(*found, metric, margin, claims, guardrails, direction=direction)


FILES = {
    "table.md": "md",
    "table.tex": "latex",
    "effects.csv": "csv",
    "report.json": "json",
    "report.html": "html",
}


def write_folder(report: AnalysisReport, folder: Path) -> Path:
    """Write every form and the figures (PNG and PDF) to a folder. Returns the HTML file."""
    from .figures import save_all

    for name, format in FILES.items():
        write(report, format, folder / name)
    save_all(report, folder / "figures")
    return folder / "report.html"


def study_folder(root: Path | str, name: str | None = None) -> Path:
    """The folder of a study's report."""
    root = Path(root)
    return study_path(root, find(root, name)) / "report"
