"""The figures of a report, as SVG, PNG and PDF, each with a text alternative."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from ..model import AnalysisReport
from .effects import forest, interactions, lengths, subsets, waterfall
from .per_cell import cells, curves, pareto
from .style import INK, Drawn, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

FIGURES: dict[str, Callable[[AnalysisReport], Drawn | None]] = {
    "waterfall": waterfall,
    "forest": forest,
    "cells": cells,
    "interactions": interactions,
    "curves": curves,
    "lengths": lengths,
    "pareto": pareto,
    "conditions": subsets,
}
"""Name of a figure and its files -> function that draws it, or returns None if the report lacks the data."""


@dataclass(frozen=True)
class Figure:
    """A drawn figure. `alternative` describes in words what it shows."""

    name: str
    title: str
    alternative: str
    canvas: Canvas

    def svg(self, shared: bool = False) -> str:
        """The figure as inline SVG, without URLs, with unique ids, and with lines in the page's text colour.

        Args:
            shared: whether the page may have another figure of this name.
        """
        buffer = io.StringIO()
        with style(self.name):
            self.canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        drawn = buffer.getvalue()
        name = f"{self.name}-{crc32(drawn.encode()):08x}" if shared else self.name
        return inline_svg(drawn, name, self.alternative)

    def save(self, folder: Path) -> list[Path]:
        """Write PNG and PDF files; the same report gives identical files."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{self.name}.{suffix}" for suffix in ("png", "pdf")]
        with style(self.name):
            self.canvas.savefig(paths[0], dpi=150, facecolor="white", metadata={"Software": None})
            self.canvas.savefig(paths[1], facecolor="white", metadata={"CreationDate": None})
        return paths


def inline_svg(svg: str, name: str, alternative: str) -> str:
    """A matplotlib SVG adapted for use inside an HTML page."""
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


@lru_cache(maxsize=len(FIGURES))
def draw_one(report: AnalysisReport, name: str) -> Figure | None:
    """Draw one of `FIGURES`; None if the report lacks the data. The most recent figures are cached."""
    with style(name):
        drawn = FIGURES[name](report)
        if drawn is None:
            return None
        title, alternative, canvas = drawn
        canvas.draw_without_rendering()
    canvas.set_layout_engine("none")
    return Figure(name, title, alternative, canvas)


def save_all(report: AnalysisReport, folder: Path) -> list[Path]:
    """Write every figure for which the report has data to a folder, as PNG and PDF."""
    figures = filter(None, (draw_one(report, name) for name in FIGURES))
    return [path for figure in figures for path in figure.save(folder)]
