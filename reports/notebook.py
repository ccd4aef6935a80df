"""An analysis or the report of a study as the output of a notebook's cell."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ablate.ablations.inference.analysis import Analysis
from ablate.studies.scores import RunInfo

from .document import document
from .model import AnalysisReport
from .renderers.html import fragment
from .sources import StudyInfo


def html_of(shown: Analysis | AnalysisReport) -> str:
    """The blocks of the form `notebook`."""
    report = report_of_analysis(shown) if isinstance(shown, Analysis) else shown
    return fragment(document(report, "notebook"))


def report_of_analysis(analysis: Analysis) -> AnalysisReport:
    """A report that knows nothing beside the numbers."""
    data = analysis.scores
    runs = [RunInfo(data.cells[c], data.seeds[s], scored=True) for c, s in np.argwhere(data.present)]
    info = StudyInfo("analysis", "a table", analysis.base, analysis.baseline, runs=runs)
    nothing = pd.DataFrame(columns=["cell", "seed", "utterance", analysis.metric])
    return AnalysisReport(analysis, info, nothing, tuple(analysis.claims.items()))
