"""From scores to estimates: contrasts of cell means with the closed-form variances of `engine`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ablate.models.errors import InputError, listed

from ..claims import Claim, check_margin, margin_of, unit_of
from .analysis import Analysis
from .blocked import blocked
from .cells import cell_table, guardrail_cells
from .contrasts import Contrast, build, judged
from .engine import holm
from .guardrails import guardrail_effects, trade_offs
from .pooled import pooled_effects
from .reach import unreached
from .scores import Scores
from .units import by_unit, carried_lines
from .verdicts import effects_table, stated_claims


def infer(
    data: Scores,
    *,
    claims: Mapping[str, Sequence[Any] | Claim] | None = None,
    margin: float | None = None,
    confidence: float = 0.95,
    guardrails: Sequence[Scores] = (),
) -> Analysis:
    """Every contrast that the scores give, with its interval and verdict.

    For claims, margin and confidence see `reports.analyze`; guardrails are the same table in other metrics.

    Raises:
        InputError: confidence or margin is out of range, a claim does not name a factor, a guardrail metric
            is given twice or equals the endpoint, or there is nothing to compare.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence {confidence} is not between 0 and 1")
    layout, metric = data.layout, data.metric
    taken = [metric]
    for guardrail in guardrails:
        if guardrail.metric in taken:
            raise InputError(f"guardrail metric {guardrail.metric!r} is given twice or is the endpoint")
        taken.append(guardrail.metric)
    margin = margin_of(metric) if margin is None else check_margin(margin)
    scored = data.scored()
    names = [data.cells[i] for i in scored]
    if not data.levels and layout.baseline is not None and layout.base in (None, layout.baseline):
        raise InputError("the scores have no factor with two levels, and base does not name a separate cell")
    cells = layout.cells if data.levels else {name: {} for name in filter(None, [layout.base])}
    found = build(layout.design, cells, baseline=layout.baseline, available=set(names))
    weights = found.matrix(names)
    everything = np.vstack([weights, np.eye(len(names))])
    both = data.estimate(everything)
    count = len(weights)
    estimates, of_cells = both.rows(slice(0, count)), both.rows(slice(count, None))
    stated = stated_claims(claims, metric, data.levels)
    family = found.declared("main")
    nothing = unreached(data)
    effects = effects_table(found.rows, estimates, names, data, stated, margin, confidence, family, nothing)
    pooled, pooled_note = pooled_effects(
        data.values[scored], weights, data.present[scored], found.rows, confidence
    )
    base_levels = {factor: order[0] for factor, order in data.levels.items()}
    divergence = _divergence(data, confidence)
    notes = _notes(data, effects, divergence, found.rows, found.notes, bool(base_levels))
    if margin is None:
        notes.append(
            f"No verdicts: it is not known which difference of {metric} matters. Set it with "
            f"--margin{', in ' + unit if (unit := unit_of(metric)) else ''}."
        )
    if pooled_note:
        notes.append(pooled_note)
    credited = judged(found.rows) or next(
        (rows for kind in ("add-one", "leave-one-out") if (rows := _of_kinds(found.rows, kind))), []
    )
    rows = sorted([*credited, *_of_kinds(found.rows, "unexplained", "gap")])
    declared = max(len(credited), family) + sum(map(found.declared, ("gap", "unexplained")))
    beside_seeds = blocked(
        estimates,
        data.values[scored],
        weights,
        data.groups_of(scored),
        data.present[scored],
        [place for place, name in enumerate(names) if data.cell_levels[name]],
        data.observed(scored),
    )
    half = beside_seeds.half_width(confidence)
    effects["blocked_low"], effects["blocked_high"] = estimates.value - half, estimates.value + half
    mains = effects["kind"] == "main"
    effects["seed_f"] = np.where(mains, beside_seeds.seed_f, np.nan)
    effects["seed_p"] = np.where(mains, beside_seeds.seed_p, np.nan)
    notes += _seed_notes(effects[mains])
    notes += [
        f"{name}: {found}. The scores are rounded or means of runs, so a small difference may be hidden."
        for name, found in nothing.items()
        if not found.certain
    ]
    effects["p_headline"] = np.nan
    effects.loc[rows, "p_headline"] = holm(estimates.p[rows], declared)
    units = by_unit([found.rows[row] for row in rows], data, confidence)
    notes += carried_lines(units)
    beside = guardrail_effects([found.rows[row] for row in rows], guardrails, confidence)
    notes += trade_offs(data, margin, effects.iloc[rows], beside)
    notes += dict.fromkeys(note for guardrail in guardrails for note in guardrail.notes if note not in notes)
    return Analysis(
        effects=effects,
        cells=cell_table(data, of_cells, confidence),
        divergence=divergence,
        pooled=pooled,
        guardrails=beside,
        guardrail_cells=guardrail_cells(guardrails, confidence),
        contrasts=found.rows,
        not_estimable=found.not_estimable,
        aliases=found.aliases,
        design=found.design,
        metric=metric,
        margin=margin,
        confidence=confidence,
        levels=data.levels,
        base=base_levels,
        base_cell=layout.base if layout.base in names else None,
        baseline=layout.baseline,
        claims=stated,
        seeds=tuple(data.seeds),
        utterances=len(data.utterances),
        by_unit=units,
        unreached=nothing,
        notes=tuple(notes),
        scores=data,
        estimates=estimates,
        guard_scores=tuple(guardrails),
    )


def _of_kinds(contrasts: Sequence[Contrast], *kinds: str) -> list[int]:
    """Positions of the contrasts of some kinds."""
    return [place for place, contrast in enumerate(contrasts) if contrast.kind in kinds]


def _divergence(data: Scores, confidence: float) -> pd.DataFrame:
    """Share of diverged runs per cell with the exact binomial interval (Clopper and Pearson 1934)."""

    @cache
    def interval(diverged: int, runs: int) -> tuple[float, float]:
        if not runs:
            return 0.0, 1.0
        found = stats.binomtest(diverged, runs).proportion_ci(confidence, method="exact")
        return found.low, found.high

    diverged = data.diverged.sum(1)
    runs = diverged + data.present.sum(1)
    bounds = [interval(d, n) for d, n in zip(diverged.tolist(), runs.tolist(), strict=True)]
    with np.errstate(invalid="ignore"):
        rate = diverged / runs
    return pd.DataFrame(
        {
            "cell": data.cells,
            "runs": runs,
            "diverged": diverged,
            "rate": rate,
            "low": [low for low, _ in bounds],
            "high": [high for _, high in bounds],
        }
    )


def _seed_notes(mains: pd.DataFrame) -> list[str]:
    """A sentence on factors whose effect differs between seeds more than the rest of the grid does."""
    told = [
        f"{row['name']} (F = {row['seed_f']:.1f}, p = {row['seed_p']:.3f})"
        for row in mains.to_dict("records")
        if row["seed_p"] < 0.05
    ]
    if not told:
        return []
    return [
        f"The effect of {listed(told)} differs between seeds by more than the rest of the grid does, so "
        "the interval centred by seed is too narrow for it."
    ]


def _notes(
    data: Scores,
    effects: pd.DataFrame,
    divergence: pd.DataFrame,
    contrasts: Sequence[Contrast],
    design: Sequence[str],
    has_factors: bool,
) -> list[str]:
    notes = []
    if effects["se"].notna().any():
        known = [
            f"{count} {column}{'' if count == 1 else 's'}"
            for column in ("speaker", "noise")
            if column in data.utterance_info and (count := data.utterance_info[column].nunique())
        ]
        among = f" ({' and '.join(known)})" if known else ""
        what = (
            "other training runs" if len(data.utterances) == 1 else "other training runs and other utterances"
        )
        notes.append(
            f"Intervals cover {what} of these test speakers and noises{among}, not other speakers or noises."
        )
    if len(data.utterances) == 1:
        notes.append("Only one utterance: the intervals do not include the variation between utterances.")
    runs = dict(zip(data.cells, data.present.sum(1).tolist(), strict=True))
    few = [cell for cell, count in runs.items() if count == 1]
    if few and effects["se"].isna().any():
        notes.append(
            f"Only one seed in {listed(few)}: contrasts that use it have no interval, because "
            "run-to-run variance is unknown."
        )
    ends = [name for c in contrasts if c.kind in ("gap", "unexplained") for name in c.weights]
    two = [name for name in dict.fromkeys(ends) if runs[name] == 2]
    if two:
        notes.append(
            f"Two seeds in {listed(two)}: the intervals of the gap and of the unexplained part then have "
            "less than nominal coverage (.90 to .95 in simulation); a third seed fixes this."
        )
    diverged = divergence[divergence["diverged"] > 0]
    if len(diverged):
        which = [f"{row.cell} ({row.diverged} of {row.runs})" for row in diverged.itertuples()]
        notes.append(f"Diverged runs: {listed(which)}. Effects are conditional on convergence.")
    if any(len(group) > 1 for group in data.groups):
        notes.append("Cells that share training runs are compared seed by seed on the same checkpoints.")
    if has_factors and any(len(order) > 2 for order in data.levels.values()):
        notes.append("Shapley values, add-one and leave-one-out compare each factor's first and last level.")
    return [*notes, *design, *data.notes]
