"""How well validation ranks the cells of a study as the test set does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from scipy.stats import spearmanr

from ablate.ablations.claims import direction_of
from ablate.studies.scores import RunInfo
from ablate.training.metrics.registry import in_words

from .formatting import known, signed

FEWEST = 6
"""Minimum number of cells to compare ranks."""
LEVEL = 0.05


@dataclass(frozen=True)
class Agreement:
    """Spearman's rank correlation of the cells' validation PESQ-WB and their test scores.

    Both are means over the seeds that have both. Runs are not ranked, since runs of one cell are alike and do
    not add evidence of an order.

    Attributes:
        correlation: 1 if both give the same order, from worst to best; -1 if they give opposite orders.
        same, opposite: whether a positive or negative correlation is significant, one-sided at 5 %.
    """

    cells: int
    correlation: float
    same: bool
    opposite: bool


def agreement(scores: pd.DataFrame, runs: Sequence[RunInfo], metric: str) -> Agreement | None:
    """The agreement of the ranks; None if there are fewer than `FEWEST` cells, or all are equal."""
    tested = scores.groupby(["cell", "seed"], observed=True)[metric].mean()
    rows = []
    for run in runs:
        validation, test = run.summary.get("val_pesq_wb"), tested.get((run.cell, run.seed))
        if run.scored and known(validation) and known(test):
            training = run.training or f"{run.cell} {run.seed}"
            rows.append((run.cell, training, validation, direction_of(metric) * test))
    table = pd.DataFrame(rows, columns=["cell", "training", "validation", "test"])
    means = table.drop_duplicates("training").groupby("cell")[["validation", "test"]].mean()
    if len(means) < FEWEST or means.nunique().min() < 2:
        return None
    found = spearmanr(means["validation"], means["test"])
    p = found.pvalue / 2
    return Agreement(
        len(means),
        float(found.statistic),
        same=bool(found.statistic > 0 and p < LEVEL),
        opposite=bool(found.statistic < 0 and p < LEVEL),
    )


def agreement_lines(found: Agreement | None, metric: str, *, chosen: bool) -> list[str]:
    """The agreement as sentences.

    Args:
        chosen: whether validation chose settings or weights.
    """
    if found is None:
        return []
    told = (
        f"Over {found.cells} cells, validation PESQ-WB and test {in_words(metric)} have a rank "
        f"correlation of {signed(found.correlation, 2)}"
    )
    if found.same:
        return [f"{told}."]
    told += (
        ": validation ranks them in the opposite order"
        if found.opposite
        else ", which does not show that validation ranks them as the test set does"
    )
    if not chosen:
        return [f"{told}."]
    return [
        f"{told}, so what it selected (tuned settings, weights) may not suit the test set. Validate on "
        "more files (recipe.validation_utterances), or on speakers and noises closer to the test set's."
    ]
