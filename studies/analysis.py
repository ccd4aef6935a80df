"""The analysis of a study's scores, with design, claims and margin from its plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ablate.ablations.claims import Claim
from ablate.ablations.design import Design
from ablate.ablations.factors import claims_on
from ablate.ablations.inference.analysis import Analysis
from ablate.ablations.inference.estimates import infer
from ablate.ablations.inference.scores import Layout, read_scores
from ablate.ablations.scale import Setting
from ablate.training.metrics.passport import passport_of

from .plan import Plan


def analyze_study(
    plan: Plan,
    scores: pd.DataFrame,
    metric: str | None = None,
    margin: float | None = None,
    claims: Mapping[str, Claim] | None = None,
    guardrails: Sequence[str] = (),
) -> Analysis:
    """Estimates of a study with their verdicts.

    Args:
        scores: the table of `studies.scores.scores_of_runs`.
        metric: column to compare. Default: the study's endpoint.
        margin: smallest difference that matters. Default: the study's for its endpoint, else the metric's.
        claims: effect -> claim. Default: those of the plan's factors.
        guardrails: other metrics, which show whether a gain costs elsewhere.

    Raises:
        InputError: no run has a value of the metric, a run's scores cannot be used, or runs were measured in
            different ways.
    """
    metric = metric or plan.endpoint.metric
    for name in (metric, *guardrails):
        passport_of(scores.attrs, name)
    if margin is None and metric == plan.endpoint.metric:
        margin = plan.endpoint.margin
    layout = layout_of(plan, set(scores["cell"].unique()))
    analysis = infer(
        read_scores(scores, metric, layout),
        claims=claims_on(plan.factors, metric) if claims is None else claims,
        margin=margin,
        guardrails=[read_scores(scores, guardrail, layout) for guardrail in guardrails],
    )
    return at_scale(analysis, setting_of(plan))


def at_scale(analysis: Analysis, setting: Setting) -> Analysis:
    """An analysis whose verdicts are marked if the claims were made for another setting."""
    effects = analysis.effects.copy()
    claimed = effects["claim_low"].notna()
    effects.loc[claimed, "verdict"] = [
        setting.verdict(verdict, analysis.claims[name].conditions)
        for name, verdict in effects.loc[claimed, ["name", "verdict"]].itertuples(index=False)
    ]
    if setting.is_demo:
        effects.loc[claimed, "seeds_needed"] = float("nan")
    return replace(analysis, effects=effects)


def setting_of(plan: Plan) -> Setting:
    """The setting of a study: sizes and steps of the cells with factors (else of all), and the corpora."""
    cells = [cell for cell in plan.cells if cell.levels] or plan.cells
    corpus = plan.corpus
    trained = (corpus.name, corpus.kind)
    return Setting(
        parameters=_span([cell.parameters for cell in cells]),
        steps=_span([cell.config.steps for cell in cells]),
        trained_on=trained,
        tested_on=trained if corpus.test_path is None else (Path(corpus.test_path).name,),
        is_demo=corpus.is_demo,
    )


def _span(values: Sequence[int | None]) -> tuple[int, int] | None:
    """The smallest and largest value; None if one is unknown."""
    known = [value for value in values if value]
    return (min(known), max(known)) if len(known) == len(values) else None


def layout_of(plan: Plan, there: set[str]) -> Layout:
    """The levels of a plan's cells. If the baseline is not in `there` yet, it and the gap are left out."""
    design = Design.of({f.name: tuple(f.levels) for f in plan.factors}, plan.design, plan.constraints)
    baseline = next((cell.name for cell in plan.cells if not cell.levels and cell.name in there), None)
    return Layout.planned(design, {cell.name: cell.levels for cell in plan.cells}, baseline)
