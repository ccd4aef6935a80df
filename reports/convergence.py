"""How fast the cells learn: validation curves, steps to a threshold, area under the curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

from ablate.studies.scores import RunInfo

from .sources import StudyInfo

CURVE = "val/pesq_wb"


@dataclass(frozen=True)
class Curve:
    """A cell's validation curve: mean, lowest and highest over its seeds at each step."""

    cell: str
    steps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    seeds: int


@dataclass(frozen=True)
class Convergence:
    """How fast one cell learns.

    Attributes:
        steps_to_threshold: mean over the seeds that reached the threshold, interpolated between validations.
        area: mean height of the validation curve, i.e. the area under it divided by its length.
    """

    cell: str
    seeds: int
    threshold: float
    reached: int
    steps_to_threshold: float | None
    area: float
    area_sd: float | None
    seconds_to_threshold: float | None


def points(metrics: Sequence[Mapping[str, Any]], key: str = CURVE) -> list[tuple[int, float]]:
    """(step, value) of a run's validations, with the last line of each step."""
    found: dict[int, float] = {}
    for line in metrics:
        value = line.get(key)
        if value is not None and math.isfinite(value):
            found[int(line["step"])] = float(value)
    return sorted(found.items())


def steps_to(curve: Sequence[tuple[int, float]], threshold: float) -> float | None:
    """The step at which a curve first reaches a threshold, linear between validations; None if never."""
    previous: tuple[int, float] | None = None
    for step, value in curve:
        if value >= threshold:
            if previous is None or value == previous[1]:
                return float(step)
            before, height = previous
            return before + (step - before) * (threshold - height) / (value - height)
        previous = (step, value)
    return None


def area(curve: Sequence[tuple[int, float]]) -> float:
    """Mean height of a curve over its steps (trapezoidal rule), which does not depend on its length.

    Raises:
        ValueError: the curve is empty.
    """
    if not curve:
        raise ValueError("a curve without points has no area")
    length = curve[-1][0] - curve[0][0]
    if length == 0:
        return curve[0][1]
    total = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(curve))
    return total / length


def curves(info: StudyInfo, key: str = CURVE) -> list[Curve]:
    """The validation curve of every cell."""
    result = []
    for cell, trained in info.by_cell.items():
        runs = [dict(points(run.metrics, key)) for run in trained]
        runs = [run for run in runs if run]
        if not runs:
            continue
        steps = sorted({step for run in runs for step in run})
        columns = [[run[step] for run in runs if step in run] for step in steps]
        result.append(
            Curve(
                cell,
                tuple(steps),
                tuple(fmean(column) for column in columns),
                tuple(min(column) for column in columns),
                tuple(max(column) for column in columns),
                len(runs),
            )
        )
    return result


def default_threshold(info: StudyInfo) -> float | None:
    """The default threshold of validation PESQ; None if the base cell does not have a curve.

    It is nine tenths of the way from the noisy input's score to the base cell's best. If the noisy input's
    score is unknown or above the best, the curve's lowest point replaces it.
    """
    base = base_cell(info)
    heights = [value for run in info.runs if run.cell == base for _, value in points(run.metrics)]
    if not heights:
        return None
    noisy = [s["noisy_val_pesq_wb"] for r in info.runs if (s := r.summary).get("noisy_val_pesq_wb")]
    floor = fmean(noisy) if noisy and fmean(noisy) < max(heights) else min(heights)
    return floor + 0.9 * (max(heights) - floor)


def base_cell(info: StudyInfo) -> str | None:
    """The name of the cell in which every factor has its first level."""
    for name, cell in info.cells.items():
        if cell.levels and cell.levels == dict(info.base):
            return name
    return None


def convergence(info: StudyInfo, threshold: float | None = None) -> list[Convergence]:
    """Steps to a threshold of validation PESQ, and mean height of the curve, for each cell."""
    threshold = default_threshold(info) if threshold is None else threshold
    if threshold is None:
        return []
    result = []
    for cell, trained in info.by_cell.items():
        runs: list[tuple[RunInfo, list[tuple[int, float]]]] = [
            (run, curve) for run in trained if (curve := points(run.metrics))
        ]
        if not runs:
            continue
        crossings = [(run, steps_to(curve, threshold)) for run, curve in runs]
        reached = [(run, step) for run, step in crossings if step is not None]
        areas = [area(curve) for _, curve in runs]
        times = [
            step * run.summary["seconds_per_step"]
            for run, step in reached
            if run.summary.get("seconds_per_step")
        ]
        result.append(
            Convergence(
                cell=cell,
                seeds=len(runs),
                threshold=threshold,
                reached=len(reached),
                steps_to_threshold=fmean(step for _, step in reached) if reached else None,
                area=fmean(areas),
                area_sd=stdev(areas) if len(areas) > 1 else None,
                seconds_to_threshold=fmean(times) if times else None,
            )
        )
    return result
