"""Tables of cells: mean over runs, SD between them, interval; and the best cell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from .engine import Estimates
from .scores import Scores

COLUMNS = ("cell", "runs", "mean", "sd", "se", "df", "low", "high")
"""Columns of a table of cells; the factors' columns follow the first."""


def cell_table(data: Scores, estimates: Estimates, confidence: float) -> pd.DataFrame:
    """The cells with scores: `COLUMNS` and one column per factor; `sd` is over seeds.

    Args:
        estimates: estimates of the scored cells' means, in their order.
    """
    cells = [data.cells[i] for i in data.scored()]
    runs = [data.values[i][data.present[i]].mean(-1) for i in data.scored()]
    found = estimates.columns(confidence)
    return pd.DataFrame(
        {
            "cell": cells,
            **{factor: [data.cell_levels[cell].get(factor, "") for cell in cells] for factor in data.levels},
            "runs": [len(means) for means in runs],
            "mean": found["estimate"],
            "sd": [means.std(ddof=1) if len(means) > 1 else math.nan for means in runs],
            **{name: found[name] for name in ("se", "df", "low", "high")},
        }
    )


def best_cell(data: Scores, cells: pd.DataFrame, confidence: float) -> str | None:
    """The best cell by the metric's direction; None if the interval of its difference to the second best
    includes zero."""
    if len(cells) < 2:
        return None
    order = (cells["mean"] * -data.direction).argsort(kind="stable").to_numpy()
    scored = data.scored()
    weights = np.zeros((1, len(scored)))
    weights[0, order[0]], weights[0, order[1]] = 1.0, -1.0
    low, high = data.estimate(weights).interval(confidence)
    return str(cells["cell"].iloc[order[0]]) if low[0] > 0 or high[0] < 0 else None


def guardrail_cells(guardrails: Sequence[Scores], confidence: float) -> pd.DataFrame:
    """The cells in each guardrail's metric: metric, best, and the columns of `cell_table`."""
    parts = [pd.DataFrame(columns=["metric", "best", *COLUMNS])]
    for data in guardrails:
        scored = data.scored()
        cells = cell_table(data, data.estimate(np.eye(len(scored))), confidence)
        best = best_cell(data, cells, confidence)
        cells.insert(0, "metric", data.metric)
        cells.insert(1, "best", cells["cell"] == best)
        parts.append(cells)
    return pd.concat(parts[1:] or parts, ignore_index=True)
