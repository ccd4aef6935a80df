"""How much runs would gain if their checkpoints were chosen on the test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ablate.studies.scores import RunInfo
from ablate.training.metrics.registry import in_words

from .formatting import estimate, known


@dataclass(frozen=True)
class Price:
    """A run's best test score minus that of the checkpoint chosen on validation, averaged over runs.

    Attributes:
        checkpoints: smallest number of checkpoints with a test score in any run.
        low, high: 95 % interval of the mean over runs; None if there is only one run.
    """

    runs: int
    checkpoints: int
    mean: float
    low: float | None
    high: float | None


def price(runs: Sequence[RunInfo], metric: str, direction: int = 1) -> Price | None:
    """The price of choosing on test, from curves with test scores; None if no run has two test scores.

    The checkpoint chosen on validation is the best by `val/<metric>`, else by `val/pesq_wb`, else the last.

    Args:
        direction: 1 if higher is better, -1 if lower is.
    """
    gains, counts = {}, []
    for run in runs:
        lines = [line for line in run.metrics if known(line.get(f"test/{metric}"))]
        if len(lines) < 2:
            continue
        tested = [direction * float(line[f"test/{metric}"]) for line in lines]
        validated = _validated(lines, metric, direction)
        chosen = int(np.argmax(validated)) if validated else -1
        gains[run.training or f"{run.cell} {run.seed}"] = max(tested) - tested[chosen]
        counts.append(len(lines))
    if not gains:
        return None
    values = np.array(list(gains.values()))
    low = high = None
    if len(values) > 1:
        half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
        low, high = float(values.mean() - half), float(values.mean() + half)
    return Price(len(values), min(counts), float(values.mean()), low, high)


def _validated(lines: Sequence, metric: str, direction: int) -> list[float]:
    for name, better in ((f"val/{metric}", direction), ("val/pesq_wb", 1)):
        if all(known(line.get(name)) for line in lines):
            return [better * float(line[name]) for line in lines]
    return []


def price_lines(found: Price | None, metric: str) -> list[str]:
    """The price as a sentence."""
    if found is None:
        return []
    value = estimate(found.mean, found.low, found.high)
    return [
        f"Choosing the best of {found.checkpoints} or more checkpoints on the test set would change each "
        f"run by {in_words(metric, value)} ({found.runs} runs): numbers selected in this way are not "
        "comparable with those here."
    ]
