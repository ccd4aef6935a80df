"""Figures of effects: waterfall, forest, interactions, step budgets, and the gap by condition."""

from __future__ import annotations

from itertools import combinations
from math import ceil

import numpy as np

from ..formatting import LABELS, estimate, known
from ..model import AnalysisReport
from ..step_budgets import in_steps
from .style import (
    BAND,
    BLUE,
    CYCLE,
    GREY,
    INK,
    LINES,
    ORANGE,
    Drawn,
    error_bar,
    in_words,
    legend,
    make_canvas,
)


def waterfall(report: AnalysisReport) -> Drawn | None:
    """Waterfall from the base's score to the baseline's, a step for each Shapley value and `unexplained`."""
    if report.credit_kind != "Shapley value" or report.gap is None or report.unexplained is None:
        return None
    steps = [row for row in report.factors if row.kind == "shapley"]
    steps.append(report.unexplained)
    start = report.cell_scores[str(report.analysis.base_cell)]
    end = report.cell_scores[str(report.analysis.baseline)]
    labels = [report.base_name, *(row.name for row in steps), str(report.baseline_name)]
    canvas, axes = make_canvas(7.2, 0.9 + 0.5 * len(labels))
    level = start
    edges = [start, end]
    axes.barh(0, start, color=GREY, height=0.6)
    for index, row in enumerate(steps, start=1):
        size = float(row.data["estimate"])
        colour = GREY if row is report.unexplained else (BLUE if size >= 0 else ORANGE)
        axes.barh(index, size, left=level, color=colour, height=0.6)
        axes.plot([level, level], [index - 1.3, index + 0.3], color=INK, linewidth=0.7)
        level += size
        reach = max(level, level - size)
        if error := error_bar(size, row.data["low"], row.data["high"]):
            axes.errorbar(level, index, xerr=error, color=INK, capsize=3, linewidth=1.2)
            edges += [level - error[0][0], level + error[1][0]]
            reach = max(reach, level + error[1][0])
        axes.annotate(row.estimate, (reach, index), (6, 0), textcoords="offset points", va="center")
        edges.append(level)
    last = len(labels) - 1
    axes.plot([level, level], [last - 1.3, last + 0.3], color=INK, linewidth=0.7)
    axes.barh(last, end, color=GREY, height=0.6)
    for index, value in ((0, start), (last, end)):
        axes.annotate(f"{value:.3f}", (value, index), (6, 0), textcoords="offset points", va="center")
    room = (max(edges) - min(edges)) or 0.1
    axes.set_xlim(min(edges) - 0.3 * room, max(edges) + 0.25 * room)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"{report.metric} (axis does not start at zero)")
    spoken = ", ".join(in_words(row) for row in steps)
    alternative = (
        f"Waterfall from {report.base_name} at {start:.3f} to {report.baseline_name} at {end:.3f} "
        f"{report.metric}. Steps with {report.percent} intervals: {spoken}."
    )
    return f"From {report.base_name} to {report.baseline_name}", alternative, canvas


def forest(report: AnalysisReport) -> Drawn | None:
    """Forest plot: each factor's estimate and interval, with the claimed range and the margin."""
    rows = report.factors
    if not rows:
        return None
    canvas, axes = make_canvas(7.2, 1.5 + 0.55 * len(rows))
    if (margin := report.analysis.margin) is not None:
        label = "negligible: within the margin"
        axes.axvspan(-margin, margin, color=GREY, alpha=0.18, linewidth=0, label=label)
    axes.axvline(0, color=INK, linewidth=0.8)
    named: set[str] = set()

    def once(label: str) -> str:
        fresh = label not in named
        named.add(label)
        return label if fresh else "_"

    for index, row in enumerate(rows):
        low, high = row.data.get("claim_low"), row.data.get("claim_high")
        if known(low) and known(high):
            width = float(high) - float(low)
            axes.barh(
                index,
                width,
                left=float(low),
                height=0.62,
                color=BAND,
                alpha=0.45,
                edgecolor=BAND,
                linewidth=0 if width else 2,
                label=once("claimed"),
            )
        value = float(row.data["estimate"])
        error = error_bar(value, row.data["low"], row.data["high"])
        label = once(f"{report.credit_kind}, {report.percent} interval" if error else report.credit_kind)
        axes.errorbar(value, index, xerr=error, fmt="o", color=BLUE, capsize=4, linewidth=1.8, label=label)
        for text, marker, name in ((row.add_one, ">", "add-one"), (row.leave_one_out, "<", "leave-one-out")):
            if text:
                axes.plot(
                    float(text), index + 0.2, marker, color=INK, fillstyle="none", ms=5, label=once(name)
                )
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"effect on {report.metric}, on - off")
    legend(canvas, axes, ncols=3, fontsize=8)
    spoken = "; ".join(
        in_words(row) + (f", claimed {row.claimed}" if row.claimed else "") + f": {row.verdict or 'no claim'}"
        for row in rows
    )
    return "Effects and claims", f"Forest plot of effects, on minus off. {spoken}.", canvas


def interactions(report: AnalysisReport) -> Drawn | None:
    """Interaction plots: for each pair of factors, the mean scores at all combinations of their levels."""
    levels = report.analysis.levels
    frame = report.analysis.cells
    pairs = list(combinations(levels, 2))[:6]
    estimates = {row.name: row for row in report.interactions}
    if not pairs or not estimates:
        return None
    columns = min(3, len(pairs))
    rows = ceil(len(pairs) / columns)
    canvas, grid = make_canvas(
        2.6 * columns + 0.6, 2.7 * rows, nrows=rows, ncols=columns, squeeze=False, sharey=True
    )
    spoken = []
    for axes, (first, second) in zip(grid.flat, pairs, strict=False):
        for index, inner in enumerate(levels[second]):
            means = [
                frame.loc[(frame[first] == outer) & (frame[second] == inner), "mean"].mean()
                for outer in levels[first]
            ]
            axes.plot(
                range(len(means)),
                means,
                marker="o",
                color=CYCLE[index % len(CYCLE)],
                linestyle=LINES[index % len(LINES)],
                label=f"{second}={inner}",
            )
        axes.set_xticks(range(len(levels[first])), levels[first])
        axes.set_xlim(-0.3, len(levels[first]) - 0.7)
        axes.set_xlabel(first)
        axes.legend(fontsize=7, loc="best")
        row = estimates.get(f"{first} x {second}")
        if row is not None:
            axes.set_title(f"interaction {row.estimate}\n{row.interval}", fontsize=8)
            spoken.append(in_words(row))
    for axes in list(grid.flat)[len(pairs) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(report.metric)
    said = "; ".join(spoken) or "see the table of interactions"
    alternative = f"Cell means by pairs of factors; parallel lines mean no interaction. {said}."
    return "Interactions", alternative, canvas


def lengths(report: AnalysisReport) -> Drawn | None:
    """Each effect at every trained step budget, with its interval."""
    found = report.by_step_budget
    if not found:
        return None
    places = sorted({row.step_fraction for row in found})
    names = list(dict.fromkeys(row.name for row in found))
    canvas, axes = make_canvas(7.2, 3.8)
    axes.axhline(0, color=INK, linewidth=0.8)
    for index, name in enumerate(names):
        rows = [row for row in found if row.name == name]
        at = [places.index(row.step_fraction) + 0.06 * (index - (len(names) - 1) / 2) for row in rows]
        error = np.array([[row.estimate - row.low, row.high - row.estimate] for row in rows]).T
        axes.errorbar(
            at,
            [row.estimate for row in rows],
            yerr=None if np.isnan(error).any() else error,
            marker="o",
            linestyle=LINES[index // len(CYCLE) % len(LINES)],
            color=CYCLE[index % len(CYCLE)],
            capsize=3,
            label=name,
        )
    steps = {row.step_fraction: in_steps(row.steps) for row in found}
    axes.set_xticks(range(len(places)), [f"{fraction:g}\n{steps[fraction]}" for fraction in places])
    axes.set_xlim(-0.4, len(places) - 0.6)
    axes.set_xlabel("step budget")
    axes.set_ylabel(f"effect on {report.metric}")
    legend(canvas, axes, ncols=4, fontsize=8)
    spoken = "; ".join(
        f"{row.name} after {in_steps(row.steps)} {estimate(row.estimate, row.low, row.high)}" for row in found
    )
    return ("Effects by step budget", f"Effects with intervals against the step budget: {spoken}.", canvas)


def subsets(report: AnalysisReport) -> Drawn | None:
    """The gap within each signal-to-noise ratio, noise and speaker."""
    panels = []
    for column, found in report.by.items():
        if (found["kind"] == "gap").any() and found[column].nunique() > 1:
            panels.append((column, found[found["kind"] == "gap"]))
    if not panels:
        return None
    heights = [len(frame) for _, frame in panels]
    canvas, grid = make_canvas(
        7.2,
        1.0 + 0.3 * sum(heights) + 0.3 * len(panels),
        nrows=len(panels),
        squeeze=False,
        sharex=True,
        gridspec_kw={"height_ratios": heights},
    )
    spoken = []
    for axes, (column, frame) in zip(grid[:, 0], panels, strict=True):
        for index, row in enumerate(frame.to_dict("records")):
            error = error_bar(row["estimate"], row["low"], row["high"])
            axes.errorbar(row["estimate"], index, xerr=error, fmt="o", color=BLUE, capsize=3)
            said = estimate(row["estimate"], row["low"], row["high"])
            spoken.append(f"{column} {row[column]} {said}")
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(frame)), [str(v) for v in frame[column]])
        axes.set_ylim(len(frame) - 0.5, -0.5)
        axes.set_ylabel(LABELS.get(column, column))
    grid[-1, 0].set_xlabel(f"gap in {report.metric}")
    return ("The gap by subset", "The gap within subsets of the test set: " + "; ".join(spoken) + ".", canvas)
