"""Effects on several test sets: the same runs on other utterances.

An effect can have the opposite sign on another test set. Each run's means are subtracted first, so the noise
of a run that both test sets share does not count twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from .contrasts import Contrast, weight_matrix
from .engine import Array, Estimates, estimate, satterthwaite
from .scores import Scores

COLUMNS = (
    "name",
    "kind",
    "estimate",
    "se",
    "df",
    "low",
    "high",
    "p",
    "difference",
    "difference_low",
    "difference_high",
    "words",
)


def on_test_sets(
    contrasts: Sequence[Contrast], first: Scores, other: Scores, margin: float | None, confidence: float
) -> pd.DataFrame:
    """Contrasts on another test set, and their values on the first minus those.

    Returns:
        A row with `COLUMNS` for each contrast whose cells have scores on both. `words` is `turns round` (both
        intervals exclude zero, on opposite sides), `agrees` (the difference is within the margin, by two
        one-sided tests), `differs` (the interval of the difference excludes zero), `same sign` (both
        intervals exclude zero, on the same side), or else `open`.
    """
    cells = [cell for cell in first.cells if cell in other.cells]
    seeds = [seed for seed in first.seeds if seed in other.seeds]
    pair = (first, other)
    at = [
        np.ix_([data.cells.index(cell) for cell in cells], [data.seeds.index(seed) for seed in seeds])
        for data in pair
    ]
    present = first.present[at[0]] & other.present[at[1]]
    scored = np.flatnonzero(present.any(1))
    names = [cells[i] for i in scored]
    rows = [contrast for contrast in contrasts if contrast.weights.keys() <= set(names)]
    if not rows:
        return pd.DataFrame(columns=list(COLUMNS))
    weights = weight_matrix(rows, names)
    kept = [[data.cells.index(name) for name in names] for data in pair]
    groups, present = first.groups_of(kept[0]), present[scored]
    values = [data.values[where][scored] for data, where in zip(pair, at, strict=True)]
    here, there = (
        estimate(its, weights, groups, present, rounding=data.rounding, observed=data.observed(cells))
        for data, its, cells in zip(pair, values, kept, strict=True)
    )
    runs = values[0].mean(-1) - values[1].mean(-1)
    gap = difference(here, there, runs, weights, groups, present)
    (low, high), (mine_low, mine_high) = there.interval(confidence), here.interval(confidence)
    gap_low, gap_high = gap.interval(confidence)
    inside = np.zeros(len(rows), dtype=bool)
    if margin is not None:
        inner_low, inner_high = gap.interval(max(2 * confidence - 1, 0.0))
        inside = (inner_low > -margin) & (inner_high < margin)
    signs = [_sign(mine_low, mine_high), _sign(low, high)]
    words = np.select(
        [signs[0] * signs[1] < 0, inside, _sign(gap_low, gap_high) != 0, signs[0] * signs[1] > 0],
        ["turns round", "agrees", "differs", "same sign"],
        "open",
    )
    return pd.DataFrame(
        {
            "name": [contrast.name for contrast in rows],
            "kind": [contrast.kind for contrast in rows],
            **there.columns(confidence),
            "difference": gap.value,
            "difference_low": gap_low,
            "difference_high": gap_high,
            "words": words.tolist(),
        }
    )


def difference(
    here: Estimates,
    there: Estimates,
    runs: Array,
    weights: Array,
    groups: Sequence[Sequence[int]],
    present: Array,
) -> Estimates:
    """The contrasts on one test set minus those on another.

    Args:
        runs: (cell, seed), each run's mean on the first minus its mean on the other. They give the seeds'
            part; the utterances' parts add up, since the test sets do not share utterances.
    """
    of_runs = estimate(runs[..., None], weights, groups, present)
    parts = np.stack([here.utterance_part, there.utterance_part], -1)
    total = parts.sum(-1)
    zeros = np.zeros_like(total)
    df = satterthwaite(
        total, parts, np.stack([here.utterance_df, there.utterance_df], -1), zeros, np.ones_like(total)
    )
    return replace(of_runs, utterance_part=total, utterance_df=df)


def _sign(low: Array, high: Array) -> Array:
    """1 or -1 if the interval excludes zero, else 0."""
    return np.where(low > 0, 1, np.where(high < 0, -1, 0))
