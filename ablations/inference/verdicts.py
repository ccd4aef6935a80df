"""Claims against estimates: contradicted, negligible, supported or undecided."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ablate.models.errors import InputError, listed

from ..claims import Claim, claim_of, named_claims
from ..factors import FACTORS, claims_on
from ..scale import NO_MARGIN
from .contrasts import Contrast, judged
from .engine import Array, Estimates, holm, quantile
from .retraining import p_higher
from .scores import Scores

MOST_SEEDS = 200


def decide(
    estimate: Array, half: Array, half_equivalence: Array, claim: tuple[float, float] | None, margin: float
) -> tuple[Array, Array, Array]:
    """Whether estimates are (contradicted, negligible, supported), from the half-widths of two intervals.

    `half` belongs to the 95 % interval, `half_equivalence` to the 90 % one (two one-sided tests).
    """
    negligible = (estimate - half_equivalence > -margin) & (estimate + half_equivalence < margin)
    if claim is None:
        nothing = np.zeros(np.shape(estimate), dtype=bool)
        return nothing, negligible, nothing
    low, high = claim
    contradicted = (estimate + half < low) | (estimate - half > high)
    inside = (estimate - half >= low - margin) & (estimate + half <= high + margin)
    return contradicted, negligible, inside & ~contradicted & ~negligible


def seeds_to_decide(
    estimates: Estimates, index: int, claim: tuple[float, float], margin: float, confidence: float
) -> float:
    """The fewest seeds per cell at which a claim would be decided if the estimate stayed where it is.

    NaN if no number up to 200 does (the estimate lies on a border, or the utterances limit the interval).
    """
    involved = estimates.seeds[index]
    start = int(involved[involved > 0].min()) + 1
    row = estimates.rows(slice(index, index + 1))
    seeds = np.arange(start, MOST_SEEDS + 1)[:, None]
    se, df = row.at_seeds(seeds)
    value = np.broadcast_to(row.value, se.shape)
    half, equivalence = (quantile(level, df) * se for level in (confidence, 2 * confidence - 1))
    decided = np.logical_or.reduce(decide(value, half, equivalence, claim, margin)).ravel()
    return float(seeds[decided.argmax(), 0]) if decided.any() else math.nan


def effects_table(
    contrasts: Sequence[Contrast],
    estimates: Estimates,
    names: Sequence[str],
    data: Scores,
    claims: Mapping[str, Claim],
    margin: float | None,
    confidence: float,
    family: int,
) -> pd.DataFrame:
    """A row per contrast: estimate, interval, p-values, verdict; see `Analysis.effects`.

    `family` counts the main effects that the design declares, lost ones too.
    """
    half = estimates.half_width(confidence)
    equivalence = estimates.half_width(max(2 * confidence - 1, 0.0))
    kinds = [contrast.kind for contrast in contrasts]
    p_holm = np.full(len(contrasts), np.nan)
    main = [i for i, kind in enumerate(kinds) if kind == "main"]
    if main:
        p_holm[main] = holm(estimates.p[main], family)
    shapley = {contrast.name for contrast in contrasts if contrast.kind == "shapley"}
    runs = dict(zip(names, data.present[data.scored()].sum(1).tolist(), strict=True))
    bound = math.nan if margin is None else margin
    negligible = decide(estimates.value, half, equivalence, None, bound)[1]
    verdicts, notes, needed, stated = [], [], [], []
    compared = {*judged(contrasts)}
    for i, contrast in enumerate(contrasts):
        credited = i in compared
        claim = claims.get(contrast.name) if credited else None
        verdict, note, seeds = "negligible" if negligible[i] else "", "", math.nan
        if not estimates.estimable[i]:
            verdict, note = "undecided", _why_no_interval(contrast, runs)
        elif margin is None:
            verdict = NO_MARGIN if claim or (credited and _is_credit(contrast, shapley)) else ""
        elif claim:
            verdict = judge(claim, estimates.value[i], half[i], equivalence[i], margin)
            if verdict == "undecided":
                seeds = seeds_to_decide(estimates, i, (claim.low, claim.high), margin, confidence)
                if math.isnan(seeds):
                    note = f"more seeds (up to {MOST_SEEDS}) would not decide it at this estimate"
        elif not verdict and credited and _is_credit(contrast, shapley):
            verdict = "no claim"
        verdicts.append(verdict)
        notes.append(note)
        needed.append(seeds)
        stated.append(claim)
    return pd.DataFrame(
        {
            "name": [contrast.name for contrast in contrasts],
            "kind": kinds,
            **estimates.columns(confidence),
            "p_holm": p_holm,
            "verdict": verdicts,
            "at": [contrast.at for contrast in contrasts],
            "claim_low": [claim.low if claim else math.nan for claim in stated],
            "claim_high": [claim.high if claim else math.nan for claim in stated],
            "claim_source": [claim.source if claim else "" for claim in stated],
            "seeds_needed": needed,
            "note": notes,
            "p_higher": p_higher(contrasts, data),
        }
    )


def _is_credit(contrast: Contrast, shapley: Collection[str]) -> bool:
    """Whether a report shows a contrast as its factor's credit."""
    return contrast.kind == "shapley" or not shapley


def judge(claim: Claim, estimate: Array, half: Array, equivalence: Array, margin: float) -> str:
    """The verdict on a claim, from an estimate and the half-widths of its two intervals; see `decide`."""
    flags = decide(estimate, half, equivalence, (claim.low, claim.high), margin)
    words = ("contradicted", "negligible", "supported")
    return ", ".join(word for word, flag in zip(words, flags, strict=True) if flag) or "undecided"


def _why_no_interval(contrast: Contrast, runs: Mapping[str, int]) -> str:
    few = [cell for cell, weight in contrast.weights.items() if weight and runs[cell] < 2]
    if few:
        return f"no interval: one seed in {listed(few)}; how much trainings differ is unknown"
    return "no interval: cells that share their trainings have fewer than two seeds in common"


def stated_claims(
    claims: Mapping[str, Sequence[Any] | Claim] | None,
    metric: str,
    levels: Mapping[str, tuple[str, ...]],
) -> dict[str, Claim]:
    """The claims in this metric by the name of their effect: those given, else the registered factors'.

    Raises:
        InputError: a claim names no factor, lacks the level, or is no range.
    """
    if claims is None:
        known = ((FACTORS[name], order) for name, order in levels.items() if name in FACTORS)
        factors = [factor.at(list(order)) for factor, order in known if {*order} <= {*factor.levels}]
        return claims_on(factors, metric)
    given = []
    for name, claim in claims.items():
        if not isinstance(claim, Claim):
            if len(claim) not in (2, 3):
                raise InputError(f"claim for {name!r} is {claim!r}; give (low, high) or (low, high, source)")
            source = str(claim[2]) if len(claim) == 3 else ""
            claim = claim_of(name, float(claim[0]), float(claim[1]), source, metric)
        given.append((name, claim))
    return {name: claim for name, claim in named_claims(given, levels).items() if claim.metric == metric}
