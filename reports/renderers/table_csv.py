"""The effects as CSV: every contrast, full precision; below them the guards' and those on other corpora."""

from __future__ import annotations

from typing import TextIO

import pandas as pd

from .. import caveats
from ..heterogeneity import mixed
from ..model import AnalysisReport


def render(report: AnalysisReport, out: TextIO) -> None:
    """Write `Analysis.effects` with the metric in front, `Analysis.guards`, and effects on further corpora.

    Of a further corpus (`corpus`) there is also `difference`, the first's effect minus its own, in `words`.

    Four columns say the same in every row: corpus, utterances, the kind of the intervals, and of how many
    seeds they are. No times are in it: equal results are equal bytes. `mixes` names what a contrast was
    computed across. `slope` (with its interval, or `slope_note`) says how fast an effect still changes at
    the end: see `reports.slopes`.
    """
    analysis = report.analysis
    frame = analysis.effects.copy()
    frame.insert(0, "metric", analysis.metric)
    found = {(slope.kind, slope.name): slope for slope in report.slopes}
    slopes = [found.get(key) for key in zip(frame["kind"], frame["name"], strict=True)]
    for column, field in (("slope", "estimate"), ("slope_low", "low"), ("slope_high", "high")):
        frame[column] = [getattr(slope, field, None) for slope in slopes]
    frame["slope_note"] = [slope.why if slope else "" for slope in slopes]
    across: dict[tuple[str, str], list[str]] = {}
    for fact, _, contrasts in mixed(report):
        for contrast in contrasts:
            across.setdefault((contrast.kind, contrast.name), []).append(fact)
    parts = [frame, analysis.guards] if len(analysis.guards) else [frame]
    parts = [part.assign(corpus=report.test_name, utterances=analysis.utterances) for part in parts]
    parts += [
        corpus.effects.assign(metric=analysis.metric, corpus=corpus.name, utterances=corpus.utterances)
        for corpus in report.corpora
        if not corpus.problem
    ]
    frame = pd.concat(parts, ignore_index=True)
    frame["interval"] = caveats.intervals(report)
    fewest, most = report.seeds
    frame["seeds"] = most if fewest == most else f"{fewest} to {most}"
    frame["mixes"] = [
        ", ".join(across.get(key, ())) for key in zip(frame["kind"], frame["name"], strict=True)
    ]
    frame.to_csv(out, index=False, lineterminator="\n")
