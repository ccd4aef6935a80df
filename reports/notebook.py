"""Shows an analysis or a report as the output of a notebook cell."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ablate.ablations.inference.analysis import Analysis
from ablate.models.errors import InputError
from ablate.models.registry import suggestion
from ablate.studies.scores import RunInfo

from .document import document
from .figures import FIGURES, draw_one
from .model import AnalysisReport
from .renderers.html import fragment
from .sources import StudyInfo


def html_of(shown: Analysis | AnalysisReport) -> str:
    """The HTML of the form `notebook`."""
    return fragment(document(_report(shown), "notebook"))


def figure_of(shown: Analysis | AnalysisReport, name: str) -> Figure:
    """One of `figures.FIGURES`.

    Raises:
        InputError: the figure does not exist, or there are no data for it.
    """
    if name not in FIGURES:
        raise InputError(f"unknown figure {name!r}{suggestion(name, FIGURES)}; known: {', '.join(FIGURES)}")
    if (drawn := draw_one(_report(shown), name)) is None:
        raise InputError(f"this report has no data for the figure {name!r}")
    return drawn.canvas


def _report(shown: Analysis | AnalysisReport) -> AnalysisReport:
    return report_of_analysis(shown) if isinstance(shown, Analysis) else shown


def report_of_analysis(analysis: Analysis) -> AnalysisReport:
    """A report with only the numbers of an analysis."""
    data = analysis.scores
    runs = [RunInfo(data.cells[c], data.seeds[s], scored=True) for c, s in np.argwhere(data.present)]
    info = StudyInfo("analysis", "a table", analysis.base, analysis.baseline, runs=runs)
    nothing = pd.DataFrame(columns=["cell", "seed", "utterance", analysis.metric])
    return AnalysisReport(analysis, info, nothing, tuple(analysis.claims.items()))
