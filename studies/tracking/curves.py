"""Figures of validation PESQ over training."""

from __future__ import annotations

from pathlib import Path

Curve = list[tuple[int, float]]
"""(step, value), in the order of the steps."""


def draw(path: Path, cells: dict[str, list[Curve]], noisy: float | None, title: str) -> None:
    """Validation PESQ over steps: the mean over seeds for each cell, and a band from lowest to highest."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), dpi=110, layout="constrained" if len(cells) > 1 else None)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colours = colormaps["tab10" if len(cells) <= 10 else "tab20"]
    styles = ("-", "--", ":", "-.")
    for index, (name, curves) in enumerate(cells.items()):
        by_step: dict[int, list[float]] = {}
        for curve in curves:
            for step, value in curve:
                by_step.setdefault(step, []).append(value)
        steps = sorted(by_step)
        mean = [sum(by_step[s]) / len(by_step[s]) for s in steps]
        colour, style = colours(index % colours.N), styles[index // colours.N % len(styles)]
        label = f"{name} ({len(curves)} seeds)" if len(curves) > 1 else name
        axes.plot(steps, mean, style, color=colour, label=label, marker="o", markersize=3)
        if len(curves) > 1:
            low, high = [min(by_step[s]) for s in steps], [max(by_step[s]) for s in steps]
            axes.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
    if noisy is not None:
        axes.axhline(noisy, color="0.4", linewidth=1, linestyle=(0, (4, 3)), label="noisy input")
    axes.set(xlabel="optimiser step", ylabel="validation PESQ-WB", title=title)
    axes.grid(alpha=0.25)
    if len(cells) > 1:
        columns = 1 + len(cells) // 25
        figure.legend(loc="outside right upper", fontsize=8 if len(cells) <= 25 else 6, ncols=columns)
    elif noisy is not None:
        axes.legend(loc="best", fontsize=8)
    figure.savefig(path)
