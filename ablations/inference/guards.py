"""Guards: other metrics beside the endpoint, so that a gain in one that costs another is said in words.

They stand outside the family that Holm's procedure corrects, and no claim is judged on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ablate.training.metrics.registry import METRICS

from ..claims import margin_of
from .contrasts import Contrast, weight_matrix
from .engine import Array, estimate
from .scores import Scores

COLUMNS = ("metric", "name", "kind", "estimate", "se", "df", "low", "high", "p", "change")


def direction(metric: str) -> int:
    """1 where higher is better, -1 where lower is; a metric that is not registered counts as the former."""
    return 1 if metric not in METRICS or METRICS[metric].higher_is_better else -1


def changes(metric: str, low: Array, high: Array) -> list[str]:
    """`better` or `worse` where the interval excludes zero, by the metric's direction; else empty."""
    sign = np.where(np.asarray(low) > 0, 1, np.where(np.asarray(high) < 0, -1, 0)) * direction(metric)
    return [{1: "better", -1: "worse"}.get(s, "") for s in sign.tolist()]


def guard_effects(contrasts: Sequence[Contrast], guards: Sequence[Scores], confidence: float) -> pd.DataFrame:
    """The contrasts in each guard's metric; one that needs a cell without its scores is left out."""
    parts = [pd.DataFrame(columns=list(COLUMNS))]
    for data in guards:
        scored = data.scored()
        names = [data.cells[i] for i in scored]
        rows = [contrast for contrast in contrasts if contrast.weights.keys() <= set(names)]
        weights = weight_matrix(rows, names)
        found = estimate(data.values[scored], weights, data.groups_of(scored), data.present[scored])
        low, high = found.interval(confidence)
        parts.append(
            pd.DataFrame(
                {
                    "metric": data.metric,
                    "name": [contrast.name for contrast in rows],
                    "kind": [contrast.kind for contrast in rows],
                    **found.columns(confidence),
                    "change": changes(data.metric, low, high),
                }
            )
        )
    return pd.concat(parts[1:] or parts, ignore_index=True)


def trade_offs(metric: str, margin: float | None, effects: pd.DataFrame, guards: pd.DataFrame) -> list[str]:
    """A sentence for each effect that is better in the endpoint and worse in a guard, or the other way.

    `margin` is the endpoint's; a guard has its own.
    """
    mine = dict(
        zip(
            effects["name"],
            changes(metric, effects["low"].to_numpy(), effects["high"].to_numpy()),
            strict=True,
        )
    )
    values = dict(zip(effects["name"], effects["estimate"], strict=True))
    said = []
    for name, change in mine.items():
        other = {"better": "worse", "worse": "better"}.get(change)
        against = guards[(guards["name"] == name) & (guards["change"] == other)] if other else guards[:0]
        if len(against):
            terms = [_moved(metric, values[name], margin)]
            terms += [
                _moved(row["metric"], row["estimate"], margin_of(row["metric"]))
                for row in against.to_dict("records")
            ]
            said.append(f"{name}: {', '.join(terms)}.")
    return said


def _moved(metric: str, by: float, margin: float | None) -> str:
    known = METRICS.get(metric)
    small = margin is not None and abs(by) < margin
    label = known.label if known else metric
    return f"{label} {'up' if by > 0 else 'down'} ({by:+.3f}{', less than its margin' if small else ''})"
