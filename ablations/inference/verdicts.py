"""Claims against estimates: contradicted, negligible, supported or undecided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ablate.models.errors import InputError

from ..factors import FACTORS, Claim
from .contrasts import Contrast
from .engine import Array, Estimates, holm, quantile
from .scores import Scores, listed

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
    margin: float,
    confidence: float,
) -> pd.DataFrame:
    """A row per contrast: estimate, interval, p-values, verdict; see `Analysis.effects`."""
    low, high = estimates.interval(confidence)
    half = estimates.half_width(confidence)
    equivalence = estimates.half_width(max(2 * confidence - 1, 0.0))
    kinds = [contrast.kind for contrast in contrasts]
    p_holm = np.full(len(contrasts), np.nan)
    family = [i for i, kind in enumerate(kinds) if kind == "main"]
    if family:
        p_holm[family] = holm(estimates.p[family])
    shared_out = {contrast.name for contrast in contrasts if contrast.kind == "shapley"}
    runs = {name: int(data.present[data.cells.index(name)].sum()) for name in names}
    verdicts, notes, needed, stated = [], [], [], []
    for i, contrast in enumerate(contrasts):
        credited = contrast.kind == ("shapley" if contrast.name in shared_out else "main")
        claim = claims.get(contrast.name) if credited else None
        note, seeds = "", math.nan
        if not estimates.estimable[i]:
            verdict = "undecided"
            few = [cell for cell in contrast.weights if runs[cell] < 2 and contrast.weights[cell]]
            note = (
                f"no interval: one seed in {listed(few)}; how much trainings differ is unknown"
                if few
                else "no interval: cells that share their trainings have fewer than two seeds in common"
            )
        else:
            bounds = (claim.low, claim.high) if claim else None
            flags = decide(estimates.value[i], half[i], equivalence[i], bounds, margin)
            words = ("contradicted", "negligible", "supported")
            verdict = ", ".join(word for word, flag in zip(words, flags, strict=True) if flag)
            if not verdict and claim:
                verdict = "undecided"
                seeds = seeds_to_decide(estimates, i, (claim.low, claim.high), margin, confidence)
                if math.isnan(seeds):
                    note = f"more seeds (up to {MOST_SEEDS}) would not decide it at this estimate"
            elif not verdict and credited and (contrast.kind == "shapley" or not shared_out):
                verdict = "no claim"
        verdicts.append(verdict)
        notes.append(note)
        needed.append(seeds)
        stated.append(claim)
    return pd.DataFrame(
        {
            "name": [contrast.name for contrast in contrasts],
            "kind": kinds,
            "estimate": estimates.value,
            "se": estimates.se,
            "df": estimates.df,
            "low": low,
            "high": high,
            "p": estimates.p,
            "p_holm": p_holm,
            "verdict": verdicts,
            "at": [contrast.at for contrast in contrasts],
            "claim_low": [claim.low if claim else math.nan for claim in stated],
            "claim_high": [claim.high if claim else math.nan for claim in stated],
            "claim_source": [claim.source if claim else "" for claim in stated],
            "seeds_needed": needed,
            "note": notes,
        }
    )


def stated_claims(
    claims: Mapping[str, Sequence[Any] | Claim] | None,
    metric: str,
    levels: Mapping[str, tuple[str, ...]],
) -> dict[str, Claim]:
    """The claims to judge: those given, else those of the registered factors.

    Raises:
        InputError: a claim names no factor, lacks the level, or is no range.
    """
    if claims is None:
        if metric != "pesq_wb":
            return {}
        return {
            name: known.claim
            for name, order in levels.items()
            if (known := FACTORS.get(name)) and known.claim and tuple(known.levels)[:2] == order
        }
    names = {*levels, *(f"{factor}={level}" for factor, order in levels.items() for level in order[1:])}
    stated = {}
    for name, claim in claims.items():
        if len(levels.get(name, ())) > 2:
            raise InputError(f"claim for {name!r}: say which level, e.g. {name}={levels[name][1]}")
        if name not in names:
            raise InputError(
                f"claim for {name!r}: no such factor; there are {listed(list(levels)) or 'none'}"
            )
        if not isinstance(claim, Claim):
            if len(claim) not in (2, 3):
                raise InputError(f"claim for {name!r} is {claim!r}; give (low, high) or (low, high, source)")
            source = str(claim[2]) if len(claim) == 3 else ""
            claim = Claim(low=float(claim[0]), high=float(claim[1]), source=source)
        if not claim.low <= claim.high:
            raise InputError(f"claim for {name!r}: low {claim.low} is above high {claim.high}")
        stated[name] = claim
    return stated
