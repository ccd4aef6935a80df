"""The cost of each cell, and the Pareto front of score against cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ablate.models.errors import plural

from .sources import StudyInfo

COSTS = {
    "parameters": "parameters",
    "macs_per_second": "MACs per second of audio",
    "latency_ms": "algorithmic latency",
    "one_thread_factor": "real-time factor, one thread",
    "seconds_per_step": "seconds per step",
    "real_time_factor": "real-time factor",
    "peak_memory_bytes": "peak memory",
}
"""Fields of `Cost` against which a Pareto front can be drawn -> their labels."""
EFFICIENCY = ("parameters", "macs_per_second", "latency_ms", "one_thread_factor")
"""Costs of using a network, shown next to the scores; the other costs depend on training and device."""


@dataclass(frozen=True)
class Cost:
    """Medians over a cell's runs; None if not measured.

    Attributes:
        latency_ms: infinite if the network needs the whole utterance.
        one_thread_factor: seconds of processor time for a second of audio, on one thread of `processors`.
    """

    cell: str
    runs: int
    parameters: float | None = None
    macs_per_second: float | None = None
    latency_ms: float | None = None
    one_thread_factor: float | None = None
    seconds_per_step: float | None = None
    real_time_factor: float | None = None
    peak_memory_bytes: float | None = None
    devices: tuple[str, ...] = ()
    processors: tuple[str, ...] = ()


@dataclass(frozen=True)
class ParetoPoint:
    """A cell's mean score and cost. `on_front` is whether no cheaper cell is as good."""

    cell: str
    score: float
    cost: float
    on_front: bool


@dataclass(frozen=True)
class MeasuredHours:
    """Hours of optimizer steps of all runs; shared runs count once, failed ones up to their last step."""

    hours: float | None
    trainings: int


def compute(info: StudyInfo) -> MeasuredHours:
    """The hours of a study's runs, as far as their steps were timed."""
    seconds = {run.training or f"{run.cell} {run.seed}": run.seconds for run in info.every_run if run.seconds}
    return MeasuredHours(sum(seconds.values()) / 3600 if seconds else None, len(seconds))


def costs(info: StudyInfo) -> list[Cost]:
    """The cost of every cell, from the runs' summaries and the plan's parameter counts."""
    result = []
    for cell, runs in info.by_cell.items():
        summaries = [run.summary for run in runs if run.summary]
        planned = info.cells[cell].parameters if cell in info.cells else None

        def middle(key: str, summaries: Sequence[Mapping[str, Any]] = summaries) -> float | None:
            values = [found for s in summaries if (found := _measured(s, key)) is not None]
            return float(median(values)) if values else None

        cost = Cost(
            cell=cell,
            runs=len(summaries),
            parameters=planned if planned is not None else middle("parameters"),
            **{key: middle(key) for key in COSTS if key != "parameters"},
            devices=tuple(sorted({_device(s) for s in summaries if s.get("device")})),
            processors=tuple(sorted({name for s in summaries if (name := _processor(s))})),
        )
        if any(getattr(cost, key) is not None for key in COSTS):
            result.append(cost)
    return result


def _measured(summary: Mapping[str, Any], key: str) -> float | None:
    """A field of a run's summary, also if an earlier version stored it in another form."""
    if key == "latency_ms" and key in summary and summary[key] is None:
        return math.inf
    if key == "one_thread_factor" and key not in summary and _on_one_thread(summary):
        key = "processor_time_factor"
    found = summary.get(key)
    return None if found is None else float(found)


def _on_one_thread(summary: Mapping[str, Any]) -> bool:
    return summary.get("device") == "cpu" and summary.get("threads") == 1


def _processor(summary: Mapping[str, Any]) -> str | None:
    return summary.get("processor") or (summary.get("device_name") if _on_one_thread(summary) else None)


def _device(summary: Mapping[str, Any]) -> str:
    threads = summary.get("threads")
    return str(summary["device"]) + (f", {plural(threads, 'thread')}" if threads else "")


def pareto(
    scores: Mapping[str, float], cell_costs: Sequence[Cost], against: str = "parameters", direction: int = 1
) -> list[ParetoPoint]:
    """Score against one cost, cheapest first.

    Args:
        scores: mean score of each cell.
        cell_costs: costs of the cells.
        against: a key of `COSTS`.
        direction: 1 if higher is better, -1 if lower is.

    Raises:
        ValueError: `against` is not a cost.
    """
    if against not in COSTS:
        raise ValueError(f"unknown cost {against!r}; choose from {', '.join(COSTS)}")
    known = [
        (cost.cell, scores[cost.cell], float(value))
        for cost in cell_costs
        if cost.cell in scores and (value := getattr(cost, against)) is not None and math.isfinite(value)
    ]

    points, best, at = [], -math.inf, math.nan
    for cell, score, price in sorted(known, key=lambda cell: (cell[2], -direction * cell[1])):
        good = direction * score
        on_front = good > best or (good, price) == (best, at)
        points.append(ParetoPoint(cell, score, price, on_front))
        if on_front:
            best, at = good, price
    return points


def parameter_changes(info: StudyInfo) -> dict[str, tuple[int, int] | None]:
    """For each factor, the smallest and largest change in parameters from its first to its last level.

    They are over the pairs of cells that differ in this factor alone; None if the plan does not have a pair.
    """
    result: dict[str, tuple[int, int] | None] = {}
    sizes = {
        tuple(sorted(cell.levels.items())): cell.parameters
        for cell in info.cells.values()
        if cell.levels and cell.parameters is not None
    }
    for factor in info.factors:
        name, levels = factor.name, list(factor.levels)
        changes = []
        for key, size in sizes.items():
            at = dict(key)
            if at.get(name) == levels[0]:
                partner = sizes.get(tuple(sorted({**at, name: levels[-1]}.items())))
                if partner is not None:
                    changes.append(partner - size)
        result[name] = (min(changes), max(changes)) if changes else None
    return result
