"""Verdicts on claims: contradicted, negligible, supported or undecided."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ablate.models.errors import InputError, listed

from ..claims import Claim, claim_of, named_claims
from ..factors import FACTORS, claims_on
from ..scale import NO_MARGIN, REACHES_NOTHING
from .contrasts import Contrast, judged
from .engine import Array, Estimates, holm, quantile
from .reach import Unreached
from .retraining import Higher, higher
from .scores import Scores

MOST_SEEDS = 200


class Decision(NamedTuple):
    """Flags for a claim, as arrays. The claim is undecided if the first three are false.

    Attributes:
        beside: whether interval and claimed range are disjoint, although the claim is not contradicted.
        within: whether the interval is inside the claimed range widened by the margin.
    """

    contradicted: Array
    supported: Array
    negligible: Array
    beside: Array
    within: Array

    @property
    def decided(self) -> Array:
        return self.contradicted | self.supported | self.negligible


def decide(
    estimate: Array, half: Array, half_equivalence: Array, claim: tuple[float, float] | None, margin: float
) -> Decision:
    """Compare estimates with a claim (low, high) and a margin, by the half-widths of two intervals.

    Let I be the 95 % interval (`half`), J the 90 % interval (`half_equivalence`), and K+ the claimed range
    widened by the margin on both sides. A claim is contradicted if I and K+ are disjoint. The effect is
    negligible if J is inside the margin around zero (two one-sided tests). The claim is supported if I is
    inside K+, unless the effect is negligible and the claim is not.
    """
    negligible = (estimate - half_equivalence > -margin) & (estimate + half_equivalence < margin)
    if claim is None:
        nothing = np.zeros(np.shape(estimate), dtype=bool)
        return Decision(nothing, nothing, negligible, nothing, nothing)
    low, high = claim
    bottom, top = estimate - half, estimate + half
    contradicted = (top < low - margin) | (bottom > high + margin)
    within = (bottom >= low - margin) & (top <= high + margin)
    claims_nothing = -margin <= low and high <= margin
    supported = within if claims_nothing else within & ~negligible
    beside = ((top < low) | (bottom > high)) & ~contradicted
    return Decision(contradicted, supported, negligible, beside, within)


def seeds_to_decide(
    estimates: Estimates, index: int, claim: tuple[float, float], margin: float, confidence: float
) -> float:
    """The fewest seeds per cell that would decide a claim at this estimate.

    NaN if 200 are not enough (the estimate is at a border, or the utterances limit the interval).
    """
    involved = estimates.seeds[index]
    start = int(involved[involved > 0].min()) + 1
    row = estimates.rows(slice(index, index + 1))
    seeds = np.arange(start, MOST_SEEDS + 1)[:, None]
    se, df = row.at_seeds(seeds)
    value = np.broadcast_to(row.value, se.shape)
    half, equivalence = (quantile(level, df) * se for level in (confidence, 2 * confidence - 1))
    decided = decide(value, half, equivalence, claim, margin).decided.ravel()
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
    nothing: Mapping[str, Unreached],
) -> pd.DataFrame:
    """A row per contrast: estimate, interval, p-values, verdict; see `Analysis.effects`.

    `family` is the number of main effects that the design declares, including those that are not estimable.
    Effects in `nothing` do not get a verdict.
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
    negligible = decide(estimates.value, half, equivalence, None, bound).negligible
    rows = []
    compared = {*judged(contrasts)}
    for i, contrast in enumerate(contrasts):
        credited = i in compared
        claim = claims.get(contrast.name) if credited else None
        verdict, note, seeds = "negligible" if negligible[i] else "", "", math.nan
        void = [nothing[part] for part in contrast.name.split(" x ") if part in nothing]
        if void and all(each.certain for each in void):
            verdict, note = REACHES_NOTHING if credited else "", str(void[0])
        elif not estimates.estimable[i]:
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
        low, high, source = (claim.low, claim.high, claim.source) if claim else (math.nan, math.nan, "")
        rows.append((verdict, contrast.at, low, high, source, seeds, note))
    names_of = ("verdict", "at", "claim_low", "claim_high", "claim_source", "seeds_needed", "note")
    return pd.DataFrame(
        {
            "name": [contrast.name for contrast in contrasts],
            "kind": kinds,
            **estimates.columns(confidence),
            "p_holm": p_holm,
        }
        | pd.DataFrame(rows, columns=list(names_of)).to_dict("list")
        | pd.DataFrame(higher(contrasts, data, confidence), columns=list(Higher._fields)).to_dict("list")
    )


def _is_credit(contrast: Contrast, shapley: Collection[str]) -> bool:
    """Whether a report credits a contrast to its factor."""
    return contrast.kind == "shapley" or not shapley


def judge(claim: Claim, estimate: Array, half: Array, equivalence: Array, margin: float) -> str:
    """The verdict on a claim, from an estimate and the half-widths of its two intervals; see `decide`.

    If the interval is beside the claimed range but does not contradict it, the verdict names the side.
    """
    found = decide(estimate, half, equivalence, (claim.low, claim.high), margin)
    words = ("contradicted", "supported", "negligible")
    said = [word for word in words if getattr(found, word)] or ["undecided"]
    if found.beside:
        above = bool(estimate > claim.high)
        if claim.low > 0 or claim.high < 0:
            side = "larger than claimed" if above == (claim.low > 0) else "smaller than claimed"
        else:
            side = "above the claim" if above else "below the claim"
        said.append(f"{side} by less than the margin" if found.within else side)
    return ", ".join(said)


def _why_no_interval(contrast: Contrast, runs: Mapping[str, int]) -> str:
    few = [cell for cell, weight in contrast.weights.items() if weight and runs[cell] < 2]
    if few:
        return f"no interval: only one seed in {listed(few)}, so run-to-run variance is unknown"
    return "no interval: cells that share training runs have fewer than two seeds in common"


def stated_claims(
    claims: Mapping[str, Sequence[Any] | Claim] | None, metric: str, levels: Mapping[str, tuple[str, ...]]
) -> dict[str, Claim]:
    """The claims in this metric by effect name: those given, else those of the registered factors.

    Raises:
        InputError: a claim does not name a factor, lacks its level, or is not a range.
    """
    if claims is None:
        known = ((FACTORS[name], order) for name, order in levels.items() if name in FACTORS)
        factors = [factor.at(list(order)) for factor, order in known if {*order} <= {*factor.levels}]
        return claims_on(factors, metric)
    given = []
    for name, claim in claims.items():
        if not isinstance(claim, Claim):
            if len(claim) not in (2, 3):
                raise InputError(f"claim for {name!r}: expected (low, high[, source]), got {claim!r}")
            source = str(claim[2]) if len(claim) == 3 else ""
            claim = claim_of(name, float(claim[0]), float(claim[1]), source, metric)
        given.append((name, claim))
    return {name: claim for name, claim in named_claims(given, levels).items() if claim.metric == metric}
