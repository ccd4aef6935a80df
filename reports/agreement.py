"""Whether validation orders the trainings of a study as the test does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from scipy.stats import spearmanr

from ablate.ablations.inference.guards import direction
from ablate.studies.scores import RunInfo
from ablate.training.metrics.registry import in_words

from .text import known, signed

FEWEST = 6
"""Trainings from which on their order is compared."""
SHOWN = 0.05


@dataclass(frozen=True)
class Agreement:
    """Spearman's rank correlation of the trainings' validation PESQ-WB and their test scores.

    Attributes:
        trainings: that have both.
        correlation: 1: the same order; the test's is by the mean over the utterances, the better the higher.
        p: of no correlation against a positive one.
    """

    trainings: int
    correlation: float
    p: float

    @property
    def shown(self) -> bool:
        """Whether validation is shown to order the trainings as the test does."""
        return self.p < SHOWN


def agreement(scores: pd.DataFrame, runs: Sequence[RunInfo], metric: str) -> Agreement | None:
    """How well the orders agree; none with few trainings, or where all are alike.

    Args:
        scores: rows of cell, seed and utterance.
        metric: of the test.
    """
    means = scores.groupby(["cell", "seed"], observed=True)[metric].mean()
    found = {
        run.training: (validation, direction(metric) * means[run.cell, run.seed])
        for run in runs
        if run.scored
        and known(validation := run.summary.get("val_pesq_wb"))
        and known(means.get((run.cell, run.seed)))
    }
    validation, test = zip(*found.values(), strict=True) if found else ((), ())
    if len(found) < FEWEST or min(len(set(validation)), len(set(test))) < 2:
        return None
    result = spearmanr(validation, test, alternative="greater")
    return Agreement(len(found), float(result.statistic), float(result.pvalue))


def agreement_lines(found: Agreement | None, metric: str, *, chosen: bool) -> list[str]:
    """What it says, in sentences.

    Args:
        chosen: validation chose settings or weights.
    """
    if found is None:
        return []
    told = (
        f"Over {found.trainings} trainings, validation PESQ-WB and {in_words(metric)} of the test have a "
        f"rank correlation of {signed(found.correlation, 2)}."
    )
    if found.shown:
        return [told]
    told += " That validation orders them as the test does is not shown"
    if not chosen:
        return [f"{told}."]
    return [
        f"{told}: what it chose (tuned settings, weights) need not suit the test. Validate on more files "
        "(recipe.validation_utterances), or on speakers and noises nearer to the test's."
    ]
