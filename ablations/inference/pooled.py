"""The pooled crossed model, with one variance per source for all cells. A secondary analysis.

y = cell + seed + utterance + seed x cell + utterance x cell + residual, where every term but cell is random.
On balanced data, analysis of variance gives the components in closed form; the standard error of a contrast
has Satterthwaite (1946) degrees of freedom. If the variance between runs differs between cells, this interval
is wrong (it covered the gap in three of four cases), so the headline uses `engine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .contrasts import Contrast
from .engine import Array, columns

COLUMNS = ("name", "kind", "at", "estimate", "se", "df", "low", "high", "p")


@dataclass(frozen=True)
class CrossedModel:
    """Mean squares and variance components of balanced data (cell, seed, utterance).

    Components may be negative. The variance of a contrast is `scale` times the sum of its squared weights,
    with `df` degrees of freedom.
    """

    means: Array
    components: dict[str, float]
    mean_squares: dict[str, float]
    scale: float
    df: float


def crossed_model(scores: Array) -> CrossedModel:
    """Analysis of variance of balanced scores (cell, seed, utterance).

    Raises ValueError for fewer than two of each.
    """
    cells, seeds, utterances = scores.shape
    if min(scores.shape) < 2:
        raise ValueError(f"the crossed model needs two cells, seeds and utterances, not {scores.shape}")
    grand = scores.mean()
    cell = scores.mean((1, 2)) - grand
    seed = scores.mean((0, 2)) - grand
    utterance = scores.mean((0, 1)) - grand
    cell_seed = scores.mean(2) - grand - cell[:, None] - seed
    cell_utterance = scores.mean(1) - grand - cell[:, None] - utterance
    seed_utterance = scores.mean(0) - grand - seed[:, None] - utterance
    residual = (
        scores
        - grand
        - cell[:, None, None]
        - seed[:, None]
        - utterance
        - cell_seed[:, :, None]
        - cell_utterance[:, None, :]
    )
    df_cs, df_cu = (cells - 1) * (seeds - 1), (cells - 1) * (utterances - 1)
    df_e = cells * seeds * utterances - cells * (seeds + utterances - 1)
    squares = {
        "seed x cell": utterances * float((cell_seed**2).sum()) / df_cs,
        "utterance x cell": seeds * float((cell_utterance**2).sum()) / df_cu,
        "residual": float((residual**2).sum()) / df_e,
        "seed": cells * utterances * float((seed**2).sum()) / (seeds - 1),
        "utterance": cells * seeds * float((utterance**2).sum()) / (utterances - 1),
        "seed x utterance": cells * float((seed_utterance**2).sum()) / ((seeds - 1) * (utterances - 1)),
    }
    error = squares["residual"]
    components = {
        "seed x cell": (squares["seed x cell"] - error) / utterances,
        "utterance x cell": (squares["utterance x cell"] - error) / seeds,
        "seed": (squares["seed"] - squares["seed x cell"]) / (cells * utterances),
        "utterance": (squares["utterance"] - squares["utterance x cell"]) / (cells * seeds),
        "residual": error,
    }
    terms = [(squares["seed x cell"], df_cs)]
    if components["utterance x cell"] > 0:
        terms += [(squares["utterance x cell"], df_cu), (-error, df_e)]
    total = sum(square for square, _ in terms)
    spread = sum(square**2 / df for square, df in terms)
    df = max(total**2 / spread, 1.0) if spread > 0 else np.inf  # bounded as `engine.satterthwaite`
    return CrossedModel(scores.mean((1, 2)), components, squares, total / (seeds * utterances), df)


def pooled_effects(
    scores: Array, weights: Array, present: Array, contrasts: Sequence[Contrast], confidence: float
) -> tuple[pd.DataFrame, str]:
    """The contrasts under the pooled crossed model, from the seeds that every cell has, and a note.

    The frame is empty if the cells have fewer than two seeds in common (the note then says so), or if there
    is only one cell or utterance.

    Args:
        scores: (cell, seed, utterance).
        weights: (contrast, cell).
        present: (cell, seed) which runs exist.
    """
    common = present.all(0)
    kept = int(common.sum())
    if kept < 2 or min(scores.shape[0], scores.shape[2]) < 2:
        note = "" if kept >= 2 else "No pooled model: the cells share fewer than two seeds."
        return pd.DataFrame(columns=list(COLUMNS)), note
    model = crossed_model(scores[:, common])
    value = weights @ model.means
    se = np.sqrt(np.maximum(model.scale, 0.0) * (weights**2).sum(1))
    df = np.full(len(weights), model.df)
    named = pd.DataFrame([(c.name, c.kind, c.at) for c in contrasts], columns=list(COLUMNS[:3]))
    frame = named.assign(**columns(value, se, df, confidence))
    used = int(present.any(0).sum())
    note = f"The pooled model uses the {kept} of {used} seeds that every cell has." if kept < used else ""
    return frame, note
