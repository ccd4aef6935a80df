"""The figures of a report: drawn once, kept as SVG, PNG and PDF, each with a text alternative."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .cost import COSTS
from .forms.content import AnalysisReport, EffectRow, interval, known, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

INK = "#1a2b3d"
"""Colour of text and axes; becomes the page's own text colour in SVG."""
BLUE, ORANGE, GREEN, GREY, BAND = "#3b82c4", "#e07b39", "#3a9d6a", "#8a94a0", "#e0a92e"
CYCLE = (BLUE, ORANGE, GREEN, "#b0559e", "#c24d4d", "#7a6fd0", "#5aa6a6", "#9a7b4f", GREY, "#d98cb3")
LINES = ("-", "--", ":", "-.")
SETTINGS = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.35,
    "grid.color": GREY,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class Figure:
    """A drawn figure. `alternative` says in words what it shows."""

    name: str
    title: str
    alternative: str
    canvas: Canvas

    def svg(self) -> str:
        """Inline SVG: no addresses, ids that are this figure's own, ink in the page's text colour."""
        buffer = io.StringIO()
        with _style(self.name):
            self.canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        return inline_svg(buffer.getvalue(), self.name, self.alternative)

    def save(self, folder: Path) -> list[Path]:
        """Write PNG and PDF; the same report gives the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{self.name}.{suffix}" for suffix in ("png", "pdf")]
        with _style(self.name):
            self.canvas.savefig(paths[0], dpi=150, facecolor="white", metadata={"Software": None})
            self.canvas.savefig(paths[1], facecolor="white", metadata={"CreationDate": None})
        return paths


@contextmanager
def _style(salt: str) -> Iterator[None]:
    import matplotlib

    settings: Any = {**SETTINGS, "svg.hashsalt": salt}
    with matplotlib.rc_context(settings):
        yield


def inline_svg(svg: str, name: str, alternative: str) -> str:
    """A matplotlib SVG made fit to stand in a page."""
    from html import escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(INK, "currentColor", svg, flags=re.IGNORECASE)
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
    opening = (
        f'<svg class="plot" viewBox="0 0 {width} {height}" style="max-width:{float(width) * 1.34:.0f}px" '
        f'role="img" aria-label="{escape(alternative, quote=True)}">'
    )
    return re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)


def draw_all(report: AnalysisReport) -> list[Figure]:
    """Every figure the report has data for, in the order of the page."""
    return [figure for name in FIGURES if (figure := draw_one(report, name)) is not None]


def draw_one(report: AnalysisReport, name: str) -> Figure | None:
    """One figure of `FIGURES`, laid out; None where the report has no data for it."""
    with _style(name):
        drawn = FIGURES[name](report)
        if drawn is None:
            return None
        title, alternative, canvas = drawn
        canvas.draw_without_rendering()
    canvas.set_layout_engine("none")
    return Figure(name, title, alternative, canvas)


def save_all(report: AnalysisReport, folder: Path) -> list[Path]:
    """Write every figure as PNG and PDF into a folder."""
    return [path for figure in report.figures for path in figure.save(folder)]


Drawn = tuple[str, str, "Canvas"]


def _canvas(width: float, height: float, **grid: Any) -> tuple[Canvas, Any]:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width, height), layout="constrained")
    return canvas, canvas.subplots(**grid)


def _spread(row: EffectRow) -> tuple[float, float] | None:
    if not (known(row.data["low"]) and known(row.data["high"])):
        return None
    value = float(row.data["estimate"])
    return value - float(row.data["low"]), float(row.data["high"]) - value


def _spoken(row: EffectRow) -> str:
    return f"{row.name} {row.estimate} {row.interval or 'without interval'}"


def waterfall(report: AnalysisReport) -> Drawn | None:
    """From the base's score to the baseline's, one step for each Shapley value and `not toggled`."""
    if report.credit_kind != "Shapley value" or report.gap is None or report.not_toggled is None:
        return None
    steps = [row for row in report.factors if row.kind == "shapley"]
    steps.append(report.not_toggled)
    start = report.cell_scores[str(report.analysis.base_cell)]
    end = report.cell_scores[str(report.analysis.baseline)]
    labels = [report.base_name, *(row.name for row in steps), str(report.baseline_name)]
    canvas, axes = _canvas(7.2, 0.9 + 0.5 * len(labels))
    level = start
    edges = [start, end]
    axes.barh(0, start, color=GREY, height=0.6)
    for index, row in enumerate(steps, start=1):
        size = float(row.data["estimate"])
        colour = GREY if row is report.not_toggled else (BLUE if size >= 0 else ORANGE)
        axes.barh(index, size, left=level, color=colour, height=0.6)
        axes.plot([level, level], [index - 1.3, index + 0.3], color=INK, linewidth=0.7)
        level += size
        spread = _spread(row)
        reach = level
        if spread:
            axes.errorbar(level, index, xerr=np.array([spread]).T, color=INK, capsize=3, linewidth=1.2)
            edges += [level - spread[0], level + spread[1]]
            reach = level + spread[1]
        reach = max(reach, level - size)
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
    spoken = ", ".join(_spoken(row) for row in steps)
    alternative = (
        f"Waterfall from {report.base_name} at {start:.3f} to {report.baseline_name} at {end:.3f} "
        f"{report.metric}. Steps with {report.percent} intervals: {spoken}."
    )
    return f"From {report.base_name} to {report.baseline_name}", alternative, canvas


def forest(report: AnalysisReport) -> Drawn | None:
    """Each factor's estimate and interval, beside what was claimed and the margin."""
    rows = report.factors
    if not rows:
        return None
    canvas, axes = _canvas(7.2, 1.5 + 0.55 * len(rows))
    margin = report.analysis.margin
    if margin is not None:
        axes.axvspan(
            -margin, margin, color=GREY, alpha=0.18, linewidth=0, label="negligible: within the margin"
        )
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
                index, width, left=float(low), height=0.62, color=BAND, alpha=0.45, label=once("claimed")
            )
        spread = _spread(row)
        error = np.array([spread]).T if spread else None
        label = once(f"{report.credit_kind}, {report.percent} interval" if spread else report.credit_kind)
        value = float(row.data["estimate"])
        axes.errorbar(value, index, xerr=error, fmt="o", color=BLUE, capsize=4, linewidth=1.8, label=label)
        for text, marker, name in ((row.one_in, ">", "one-in"), (row.one_out, "<", "one-out")):
            if text:
                axes.plot(
                    float(text), index + 0.2, marker, color=INK, fillstyle="none", ms=5, label=once(name)
                )
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"effect on {report.metric}, on - off")
    canvas.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    spoken = "; ".join(
        _spoken(row) + (f", claimed {row.claimed}" if row.claimed else "") + f": {row.verdict or 'no claim'}"
        for row in rows
    )
    return "Effects beside the claims", f"Forest plot of effects, on minus off. {spoken}.", canvas


def cells(report: AnalysisReport) -> Drawn | None:
    """Every cell's mean and interval, and the mean of each of its trainings."""
    frame = report.analysis.cells.sort_values("mean")
    data = report.analysis.scores
    canvas, axes = _canvas(7.2, 1.0 + 0.34 * len(frame))
    labels = []
    for index, cell in enumerate(frame.to_dict("records")):
        name = str(cell["cell"])
        labels.append(report.short(name))
        which = data.cells.index(name)
        runs = data.values[which][data.present[which]].mean(-1)
        axes.plot(runs, np.full(len(runs), index), "|", color=GREY, ms=9)
        colour = ORANGE if name == report.analysis.baseline else BLUE
        error = None
        if known(cell["low"]) and known(cell["high"]):
            error = np.array([[cell["mean"] - cell["low"]], [cell["high"] - cell["mean"]]])
        axes.errorbar(cell["mean"], index, xerr=error, fmt="o", color=colour, capsize=3)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel(f"{report.metric}; ticks: single trainings")
    spoken = ", ".join(
        f"{name} {value:.3f}" for name, value in zip(labels, frame["mean"].astype(float), strict=True)
    )
    return "Cells", f"Mean {report.metric} of every cell, lowest first: {spoken}.", canvas


def interactions(report: AnalysisReport) -> Drawn | None:
    """For each pair of factors, the mean at the levels of one within the levels of the other."""
    levels = report.analysis.levels
    frame = report.analysis.cells
    pairs = list(combinations(levels, 2))[:6]
    estimates = {row.name: row for row in report.interactions}
    if not pairs or not estimates:
        return None
    columns = min(3, len(pairs))
    rows = ceil(len(pairs) / columns)
    canvas, grid = _canvas(
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
            spoken.append(_spoken(row))
    for axes in list(grid.flat)[len(pairs) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(report.metric)
    said = "; ".join(spoken) or "see the table of interactions"
    alternative = f"Cell means by pairs of factors; parallel lines mean no interaction. {said}."
    return "Interactions", alternative, canvas


def curves(report: AnalysisReport) -> Drawn | None:
    """Validation PESQ by step: mean over the seeds, band from the lowest to the highest seed."""
    found = report.curves
    if not found or all(len(curve.steps) < 2 for curve in found):
        return None
    columns = 3 if len(found) > 4 else 2
    canvas, axes = _canvas(7.6, 3.6 + 0.2 * ceil(len(found) / columns))
    for index, curve in enumerate(found):
        colour, line = CYCLE[index % len(CYCLE)], LINES[index // len(CYCLE) % len(LINES)]
        axes.plot(curve.steps, curve.mean, line, color=colour, label=report.short(curve.cell))
        if curve.seeds > 1:
            axes.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("training step")
    axes.set_ylabel("validation PESQ-WB")
    canvas.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=7)
    spoken = ", ".join(f"{report.short(c.cell)} {c.mean[-1]:.3f}" for c in found)
    alternative = (
        "Validation PESQ-WB against training step, mean over seeds with a band from lowest to highest "
        f"seed. At the last validation: {spoken}."
    )
    return "Validation curves", alternative, canvas


def pareto(report: AnalysisReport) -> Drawn | None:
    """Score against each cost that was measured; the line joins the cells no other cell beats."""
    measured = [key for key in ("parameters", "macs_per_second", "real_time_factor") if report.pareto(key)]
    if not measured:
        return None
    canvas, grid = _canvas(3.4 * len(measured) + 0.4, 3.6, ncols=len(measured), squeeze=False, sharey=True)
    spoken = ""
    scales = {"parameters": (1e6, "parameters (million)"), "macs_per_second": (1e9, "MACs per second (G)")}
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
        for point in points:
            colour = GREEN if point.on_front else GREY
            axes.plot(point.cost / scale, point.score, "o", color=colour, ms=6)
        _annotate(axes, [(p.cost / scale, p.score, report.short(p.cell)) for p in front])
        axes.set_xlabel(label)
        axes.margins(0.15)
        if not spoken:
            said = ", ".join(f"{report.short(p.cell)} ({p.cost:,.0f}; {p.score:.3f})" for p in front)
            spoken = f"On the front against {COSTS[key]}: {said}"
    grid[0][0].set_ylabel(report.metric)
    return "Score against cost", f"Pareto plot of {report.metric} against cost. {spoken}.", canvas


def _annotate(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    for x, y, label in points:
        axes.annotate(label, (x, y), (0, -11), textcoords="offset points", fontsize=7, ha="center")


def subsets(report: AnalysisReport) -> Drawn | None:
    """The gap within each signal-to-noise ratio, noise and speaker."""
    panels = []
    for column in ("snr", "noise", "speaker"):
        found = report.by(column)
        if found is not None and (found["kind"] == "gap").any() and found[column].nunique() > 1:
            panels.append((column, found[found["kind"] == "gap"]))
    if not panels:
        return None
    heights = [len(frame) for _, frame in panels]
    canvas, grid = _canvas(
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
            error = None
            if known(row["low"]) and known(row["high"]):
                error = np.array([[row["estimate"] - row["low"]], [row["high"] - row["estimate"]]])
            axes.errorbar(row["estimate"], index, xerr=error, fmt="o", color=BLUE, capsize=3)
            said = interval(row["low"], row["high"])
            spoken.append(f"{column} {row[column]} {signed(row['estimate'])} {said}".strip())
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(frame)), [str(v) for v in frame[column]])
        axes.set_ylim(len(frame) - 0.5, -0.5)
        axes.set_ylabel(column)
    grid[-1, 0].set_xlabel(f"gap in {report.metric}")
    return (
        "The gap by condition",
        "The gap within subsets of the test set: " + "; ".join(spoken) + ".",
        canvas,
    )


FIGURES: dict[str, Callable[[AnalysisReport], Drawn | None]] = {
    "waterfall": waterfall,
    "forest": forest,
    "cells": cells,
    "interactions": interactions,
    "curves": curves,
    "pareto": pareto,
    "conditions": subsets,
}
"""Name (of the file too) -> what draws it; None where the report has no data for it."""
