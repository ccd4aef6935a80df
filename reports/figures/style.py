"""The style of all figures, and shared helpers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..formatting import known
from ..model import EffectRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

INK = "#1a2b3d"
"""Colour of text and axes; in inline SVG, the page's text colour replaces it."""
BLUE, ORANGE, GREEN, GREY, BAND = "#3b82c4", "#e07b39", "#3a9d6a", "#8a94a0", "#e0a92e"
CYCLE = (BLUE, ORANGE, GREEN, "#b0559e", "#c24d4d", "#7a6fd0", "#5aa6a6", "#9a7b4f", GREY, "#d98cb3")
LINES = ("-", "--", ":", "-.")
SETTINGS = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,
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

Drawn = tuple[str, str, "Canvas"]
"""(title, text alternative, canvas)"""


@contextmanager
def style(salt: str) -> Iterator[None]:
    """Draw in the style of the reports; ids in SVG depend on `salt` alone."""
    import matplotlib

    settings: Any = {**SETTINGS, "svg.hashsalt": salt}
    with matplotlib.rc_context(settings):
        yield


def make_canvas(width: float, height: float, **grid: Any) -> tuple[Canvas, Any]:
    """A canvas, with its size in inches, and its axes as from matplotlib's `subplots`."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width, height), layout="constrained")
    return canvas, canvas.subplots(**grid)


def error_bar(value: float, low: Any, high: Any) -> Any:
    """The distances from an estimate to its interval's ends, as for `errorbar`; None without an interval."""
    return [[value - low], [high - value]] if known(low) and known(high) else None


def legend(canvas: Canvas, axes: Any, **options: Any) -> None:
    """A legend below the axes."""
    canvas.legend(*axes.get_legend_handles_labels(), loc="outside lower center", **options)


def in_words(row: EffectRow) -> str:
    """An effect in words, for the text alternative."""
    return f"{row.name} {row.estimate} {row.interval or 'without interval'}"
