"""Figures of cells: scores, validation curves, and score against cost."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from ..convergence import Curve
from ..cost import COSTS, EFFICIENCY
from ..model import AnalysisReport
from .style import BLUE, CYCLE, GREEN, GREY, LINES, ORANGE, Drawn, error_bar, legend, make_canvas

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


MOST_NAMED = 60
"""With more cells than this, cells are drawn by rank, without their names."""
MOST_CURVES = 12


def cells(report: AnalysisReport) -> Drawn | None:
    """Every cell's mean and interval, and the mean of each of its runs."""
    frame = report.analysis.cells.sort_values("mean")
    if len(frame) > MOST_NAMED:
        return _cells_by_rank(report, frame)
    data = report.analysis.scores
    canvas, axes = make_canvas(7.2, 1.0 + 0.34 * len(frame))
    labels = []
    for index, cell in enumerate(frame.to_dict("records")):
        name = str(cell["cell"])
        labels.append(report.short(name))
        which = data.cells.index(name)
        runs = data.values[which][data.present[which]].mean(-1)
        axes.plot(runs, np.full(len(runs), index), "|", color=GREY, ms=9)
        colour = ORANGE if name == report.analysis.baseline else BLUE
        error = error_bar(cell["mean"], cell["low"], cell["high"])
        axes.errorbar(cell["mean"], index, xerr=error, fmt="o", color=colour, capsize=3)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel(f"{report.metric}; ticks: single runs")
    spoken = ", ".join(
        f"{name} {value:.3f}" for name, value in zip(labels, frame["mean"].astype(float), strict=True)
    )
    return "Cells", f"Mean {report.metric} of every cell, lowest first: {spoken}.", canvas


def _cells_by_rank(report: AnalysisReport, frame: pd.DataFrame) -> Drawn:
    canvas, axes = make_canvas(7.2, 4.2)
    means = frame["mean"].to_numpy(float)
    ranks = np.arange(1, len(means) + 1)
    low, high = frame["low"].to_numpy(float), frame["high"].to_numpy(float)
    axes.fill_between(ranks, low, high, color=GREY, alpha=0.3, linewidth=0)
    axes.plot(ranks, means, color=BLUE, linewidth=1.4)
    names = frame["cell"].astype(str).tolist()
    marked = {0, len(names) - 1}
    marked |= {names.index(c) for c in (report.analysis.base_cell, report.analysis.baseline) if c in names}
    for index in sorted(marked):
        colour = ORANGE if names[index] == report.analysis.baseline else BLUE
        axes.plot(ranks[index], means[index], "o", color=colour)
        side = "left" if index < len(names) / 2 else "right"
        _annotate(axes, [(ranks[index], means[index], report.short(names[index]))], side)
    axes.set_xlabel(f"{len(names):,} cells, lowest first; band: {report.percent} intervals")
    axes.set_ylabel(report.metric)
    spoken = ", ".join(f"{report.short(names[i])} {means[i]:.3f}" for i in sorted(marked))
    return "Cells", f"Mean {report.metric} of {len(names):,} cells by rank: {spoken}.", canvas


def curves(report: AnalysisReport) -> Drawn | None:
    """Validation PESQ by step: the mean over seeds, with a band from the lowest to the highest seed."""
    found = _shown_curves(report)
    if not found or all(len(curve.steps) < 2 for curve in found):
        return None
    columns = 3 if len(found) > 4 else 2
    canvas, axes = make_canvas(7.6, 3.6 + 0.2 * ceil(len(found) / columns))
    for index, curve in enumerate(found):
        colour, line = CYCLE[index % len(CYCLE)], LINES[index // len(CYCLE) % len(LINES)]
        axes.plot(curve.steps, curve.mean, line, color=colour, label=report.short(curve.cell))
        if curve.seeds > 1:
            axes.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("training step")
    axes.set_ylabel("validation PESQ-WB")
    legend(canvas, axes, ncols=columns, fontsize=7)
    spoken = ", ".join(f"{report.short(c.cell)} {c.mean[-1]:.3f}" for c in found)
    alternative = (
        f"Validation PESQ-WB of {len(found)} cells against training step, mean over seeds with a band from "
        f"lowest to highest seed. At the last validation: {spoken}."
    )
    return "Validation curves", alternative, canvas


def _shown_curves(report: AnalysisReport) -> list[Curve]:
    """The curves of all cells or, if there are many, of base, baseline and the cells with one change."""
    found = report.curves
    if len(found) <= MOST_CURVES:
        return found
    off = report.analysis.base

    def changes(curve: Curve) -> int:
        levels = report.analysis.scores.cell_levels.get(curve.cell) or {}
        on = sum(level != off.get(factor) for factor, level in levels.items())
        return 0 if on == len(levels) else on

    return sorted(found, key=changes)[:MOST_CURVES]


def pareto(report: AnalysisReport) -> Drawn | None:
    """Score against each measured cost; a line joins the cells on the Pareto front."""
    measured = [key for key in EFFICIENCY if report.pareto(key)]
    if not measured:
        return None
    canvas, grid = make_canvas(
        2.8 * len(measured) + 0.4, 3.6, ncols=len(measured), squeeze=False, sharey=True
    )
    spoken = ""
    scales = {"parameters": (1e6, "parameters (million)"), "macs_per_second": (1e9, "MACs per second (G)")}
    scales["latency_ms"] = (1.0, "algorithmic latency (ms)")
    for axes, key in zip(grid[0], measured, strict=True):
        scale, label = scales.get(key, (1.0, COSTS[key]))
        points = report.pareto(key)
        front = [p for p in points if p.on_front]
        axes.step(
            [p.cost / scale for p in front],
            [p.score for p in front],
            where="post",
            color=GREEN,
            linewidth=1.2,
        )
        colours = [GREEN if p.on_front else GREY for p in points]
        axes.scatter([p.cost / scale for p in points], [p.score for p in points], s=36, c=colours, zorder=2)
        named = front if len(front) <= MOST_CURVES else [front[0], front[-1]]
        _annotate(axes, [(p.cost / scale, p.score, report.short(p.cell)) for p in named])
        axes.set_xlabel(label)
        axes.margins(0.15)
        if not spoken:
            said = ", ".join(f"{report.short(p.cell)} ({p.cost:,.0f}; {p.score:.3f})" for p in front)
            spoken = f"On the front against {COSTS[key]}: {said}"
    grid[0][0].set_ylabel(report.metric)
    return "Score against cost", f"Pareto plot of {report.metric} against cost. {spoken}.", canvas


def _annotate(axes: Axes, points: Sequence[tuple[float, float, str]], side: str = "center") -> None:
    for x, y, label in points:
        axes.annotate(label, (x, y), (0, -11), textcoords="offset points", fontsize=7, ha=side)
