"""Guardrail metrics, which reveal gains in the endpoint that cost elsewhere.

They are not part of the Holm family, and claims are not tested on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ablate.training.metrics.registry import METRICS

from ..claims import margin_of
from .contrasts import Contrast, weight_matrix
from .engine import Array
from .scores import Scores

COLUMNS = ("metric", "name", "kind", "estimate", "se", "df", "low", "high", "p", "change")


def changes(direction: int, low: Array, high: Array) -> list[str]:
    """`better` or `worse` by the metric's direction if the interval excludes zero; else empty."""
    sign = np.where(np.asarray(low) > 0, 1, np.where(np.asarray(high) < 0, -1, 0)) * direction
    return [{1: "better", -1: "worse"}.get(s, "") for s in sign.tolist()]


def guardrail_effects(
    contrasts: Sequence[Contrast], guardrails: Sequence[Scores], confidence: float
) -> pd.DataFrame:
    """The contrasts in each guardrail's metric, if all of a contrast's cells have scores in it."""
    parts = [pd.DataFrame(columns=list(COLUMNS))]
    for data in guardrails:
        scored = data.scored()
        names = [data.cells[i] for i in scored]
        rows = [contrast for contrast in contrasts if contrast.weights.keys() <= set(names)]
        found = data.estimate(weight_matrix(rows, names)).columns(confidence)
        part = pd.DataFrame([(data.metric, c.name, c.kind) for c in rows], columns=list(COLUMNS[:3]))
        change = changes(data.direction, found["low"], found["high"])
        parts.append(part.assign(**found, change=change))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def trade_offs(
    data: Scores, margin: float | None, effects: pd.DataFrame, guardrails: pd.DataFrame
) -> list[str]:
    """A sentence for each effect that is better in the endpoint and worse in a guardrail, or vice versa.

    `data` and `margin` are the endpoint's; a guardrail has its own margin.
    """
    opposite = {"better": "worse", "worse": "better", "": None}
    said = []
    mine = changes(data.direction, effects["low"].to_numpy(), effects["high"].to_numpy())
    for name, value, change in zip(effects["name"], effects["estimate"], mine, strict=True):
        against = guardrails[(guardrails["name"] == name) & (guardrails["change"] == opposite[change])]
        terms = [
            _moved(metric, by, margin_of(metric)) for metric, by in against[["metric", "estimate"]].values
        ]
        if terms:
            said.append(f"{name}: {', '.join([_moved(data.metric, value, margin), *terms])}.")
    return said


def _moved(metric: str, by: float, margin: float | None) -> str:
    known = METRICS.get(metric)
    small = margin is not None and abs(by) < margin
    label = known.label if known else metric
    return f"{label} {'up' if by > 0 else 'down'} ({by:+.3f}{', less than its margin' if small else ''})"
