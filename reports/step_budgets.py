"""Effects at several step budgets, and how they change between them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ablate.ablations.inference.scores import Layout, read_scores
from ablate.models.errors import listed

from .formatting import interval, known, signed
from .slopes import SPEED

if TYPE_CHECKING:
    from ablate.ablations.inference.analysis import Analysis


@dataclass(frozen=True)
class AtStepBudget:
    """An effect at one step budget.

    Attributes:
        steps: numbers of steps of its runs; several if a factor changes the steps.
        utterances: number of utterances that are scored at every step budget.
        change: effect at the larger of this and the full budget, minus that at the smaller.
    """

    name: str
    kind: str
    step_fraction: float
    steps: tuple[int, ...]
    utterances: int
    estimate: float
    low: float
    high: float
    change: float = 0.0
    change_low: float = 0.0
    change_high: float = 0.0

    @property
    def differs(self) -> bool:
        """Whether the interval of the change excludes zero."""
        return self.change_low > 0 or self.change_high < 0


def by_step_budget(
    analysis: Analysis,
    scores: Mapping[float, pd.DataFrame],
    steps: Callable[[float], tuple[int, ...]],
    wanted: Collection[tuple[str, str]],
) -> list[AtStepBudget]:
    """The contrasts in `wanted`, given as (kind, name), at every scored step budget, smallest first.

    All numbers use the utterances that are scored at every budget. A change is a contrast of the runs of two
    budgets, which count as independent: runs of one seed share the order of files, but not the end. Empty if
    there is only one budget.

    Args:
        scores: step fraction -> table of scores; the full budget is 1.
        steps: step fraction -> steps of its runs.
    """
    tables = {fraction: table for fraction, table in sorted(scores.items()) if len(table)}
    if len(tables) < 2:
        return []
    names = [str(cell) for cell in analysis.scores.cell_levels]
    layout = Layout(
        analysis.scores.layout.design, {_at(c, fraction): {} for fraction in tables for c in names}
    )
    joined = pd.concat(
        [
            table.assign(cell=[_at(cell, fraction) for cell in table["cell"].astype(str)])
            for fraction, table in tables.items()
        ],
        ignore_index=True,
    )
    data = read_scores(joined, analysis.metric, layout, analysis.scores.better)
    there = [data.cells[index] for index in data.scored()]
    keys, rows = [], []
    for contrast in analysis.contrasts:
        if (contrast.kind, contrast.name) not in wanted:
            continue
        for fraction in tables:
            involved = [cell for cell, weight in contrast.weights.items() if weight]
            if all(_at(cell, each) in there for cell in involved for each in (1.0, fraction)):
                keys.append((contrast.kind, contrast.name, fraction))
                rows += [
                    {_at(cell, fraction): weight for cell, weight in contrast.weights.items()},
                    _change(contrast.weights, fraction),
                ]
    if len({fraction for *_, fraction in keys}) < 2:
        return []
    weights = np.array([[row.get(cell, 0.0) for cell in there] for row in rows])
    found = data.estimate(weights)
    low, high = found.interval(analysis.confidence)
    counts = {fraction: steps(fraction) for fraction in tables}
    return [
        AtStepBudget(
            name,
            kind,
            fraction,
            counts[fraction],
            len(data.utterances),
            *(float(each[2 * i]) for each in (found.value, low, high)),
            *(float(each[2 * i + 1]) for each in (found.value, low, high)),
        )
        for i, (kind, name, fraction) in enumerate(keys)
    ]


def _at(cell: str, fraction: float) -> str:
    return f"{fraction:g} {cell}"


def _change(weights: Mapping[str, float], fraction: float) -> dict[str, float]:
    if fraction == 1.0:
        return {}
    shorter, longer = sorted((1.0, fraction))
    later = {_at(cell, longer): weight for cell, weight in weights.items()}
    return later | {_at(cell, shorter): -weight for cell, weight in weights.items()}


def in_steps(steps: Sequence[int]) -> str:
    """Numbers of steps as text."""
    return f"{' or '.join(f'{count:,}' for count in steps)} steps"


def step_budget_lines(found: Sequence[AtStepBudget], percent: str) -> list[str]:
    """The effects at several step budgets as sentences."""
    lines: list[str] = []
    same: dict[tuple[str, str], list[str]] = {}
    own = {row.name: row for row in found if row.step_fraction == 1.0}
    for row in found:
        if row.step_fraction == 1.0 or not (known(row.change_low) and known(row.change_high)):
            continue
        change = f"{signed(row.change)} {interval(row.change_low, row.change_high)}"
        earlier, later = sorted((row, own[row.name]), key=lambda each: each.step_fraction)
        if row.differs:
            lines.append(
                f"{row.name} is {signed(earlier.estimate)} after {in_steps(earlier.steps)} and "
                f"{signed(later.estimate)} after {in_steps(later.steps)}, a change of {change} "
                f"({percent} interval): this is {SPEED}."
            )
        else:
            same.setdefault((in_steps(earlier.steps), in_steps(later.steps)), []).append(
                f"{row.name} {change}"
            )
    lines += [
        f"From {before} to {after}, these changes are not significant: {listed(rows)}. This does not prove "
        "that the effects are constant."
        for (before, after), rows in same.items()
    ]
    if found:
        lines.append("Claims are tested at the full step budget; others are not part of the Holm family.")
    return lines
