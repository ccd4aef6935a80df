"""Effects on extra test sets, compared with those on the first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ablate.ablations.inference.cells import best_cell, cell_table
from ablate.ablations.inference.contrasts import Contrast, weight_matrix
from ablate.ablations.inference.engine import quantile
from ablate.ablations.inference.scores import Scores, read_scores
from ablate.ablations.inference.test_sets import on_test_sets
from ablate.ablations.inference.verdicts import MOST_SEEDS
from ablate.models.errors import InputError, listed

from .sources import StudyInfo

if TYPE_CHECKING:
    from ablate.ablations.inference.analysis import Analysis


NOISIER = 2.0
"""If the SD between seeds is more than this many times that on the first test set, the report says so."""


@dataclass(frozen=True, eq=False)
class OnTestSet:
    """One extra test set.

    Attributes:
        effects: as from `ablations.inference.test_sets.on_test_sets`.
        cells, best: as in `Analysis`.
        problem: why there are no effects; or empty.
        noisier: sentence if runs differ by much more than on the first test set; or empty.
        left_out: sentences on scores that are not used.
    """

    name: str
    effects: pd.DataFrame
    cells: pd.DataFrame
    best: str | None
    utterances: int
    problem: str = ""
    noisier: str = ""
    left_out: tuple[str, ...] = ()

    def words(self) -> list[tuple[str, list[str]]]:
        """Verdict -> names of the effects, the worst agreement first."""
        order = ("turns round", "differs", "same sign", "agrees", "open")
        named = [(word, list(self.effects.loc[self.effects["words"] == word, "name"])) for word in order]
        return [(word, names) for word, names in named if names]


def on_extra_test_sets(
    analysis: Analysis, info: StudyInfo, wanted: Collection[tuple[str, str]]
) -> list[OnTestSet]:
    """The contrasts in `wanted`, given as (kind, name), on every extra test set of a study."""
    if info.plan is None:
        return []
    contrasts = [contrast for contrast in analysis.contrasts if (contrast.kind, contrast.name) in wanted]
    found = []
    for test in info.plan.extra_test_sets:
        try:
            if test.name not in info.further:
                raise InputError(info.no_further or "no run is scored on it here")
            found.append(_on(test.name, info.further[test.name], analysis, contrasts))
        except InputError as error:
            empty = pd.DataFrame({"name": [], "words": []})
            found.append(OnTestSet(test.name, empty, pd.DataFrame(), None, 0, str(error)))
    return found


def _on(name: str, scores: pd.DataFrame, analysis: Analysis, contrasts: Sequence[Contrast]) -> OnTestSet:
    """The contrasts on one extra test set. Raises InputError if no effect can be estimated."""
    first = analysis.scores
    data = read_scores(scores, analysis.metric, first.layout, first.better)
    effects = on_test_sets(contrasts, first, data, analysis.margin, analysis.confidence)
    if effects.empty:
        raise InputError("no effect has all its cells there")
    cells = cell_table(data, data.estimate(np.eye(len(data.scored()))), analysis.confidence)
    left_out = (*_unscored(first, data), *(note for note in data.notes if note not in first.layout.notes))
    best, noisier = best_cell(data, cells, analysis.confidence), _noisier(analysis, contrasts, data)
    return OnTestSet(name, effects, cells, best, len(data.utterances), "", noisier, left_out)


def _noisier(analysis: Analysis, contrasts: Sequence[Contrast], other: Scores) -> str:
    """A clause on the seeds needed for intervals as narrow as on the first test set.

    Empty unless seeds differ by much more than there; see `NOISIER`.
    """
    here, there = (_seed_sd(data) for data in (analysis.scores, other))
    if not there > NOISIER * here:
        return ""
    told = f"runs differ between seeds by SD {there:.3f}, {there / here:.1f} times as much as on the first"
    names = [other.cells[i] for i in other.scored()]
    rows = [each for each in contrasts if each.weights.keys() <= set(names)]
    found = other.estimate(weight_matrix(rows, names))
    first = analysis.scores.estimate(weight_matrix(rows, list(analysis.weights.columns)))
    wanted = np.nanmax(first.half_width(analysis.confidence))
    seeds = np.arange(2, MOST_SEEDS + 1)[:, None]
    se, df = found.at_seeds(seeds)
    widest = (quantile(analysis.confidence, df) * se)[:, np.isfinite(se[0])].max(-1)
    enough = np.flatnonzero(widest <= wanted)
    takes = f"about {seeds[enough[0], 0]} seeds" if len(enough) else f"more than {MOST_SEEDS} seeds"
    return f"{told}; half-widths of {wanted:.3f}, as on the first, would need {takes} of every cell"


def _seed_sd(data: Scores) -> float:
    """Root mean square over the cells of the SD between seeds."""
    runs = [data.values[i][data.present[i]].mean(-1) for i in data.scored()]
    spread = [each.var(ddof=1) for each in runs if len(each) > 1]
    return float(np.sqrt(np.mean(spread))) if spread else float("nan")


def _unscored(first: Scores, other: Scores) -> list[str]:
    """A sentence on the runs that are scored only on the first test set."""
    there = {(other.cells[c], other.seeds[s]) for c, s in np.argwhere(other.present)}
    runs = [(first.cells[c], first.seeds[s]) for c, s in np.argwhere(first.present)]
    lacking = [f"{cell} seed {seed}" for cell, seed in runs if (cell, seed) not in there]
    return [f"{len(lacking)} of {len(runs)} runs are not scored on it: {listed(lacking)}."] if lacking else []


def lines_of_test_sets(first: str, corpora: Sequence[OnTestSet]) -> list[str]:
    """Sentences on each extra test set."""
    told = {
        "turns round": "turns round (both intervals exclude zero)",
        "differs": "differs (the interval of the difference excludes zero)",
        "same sign": "has the same sign",
        "agrees": "agrees within the margin",
        "open": "open (neither agreement nor a difference is shown)",
    }
    lines = []
    for corpus in corpora:
        if corpus.problem:
            lines.append(f"No results on test set {corpus.name}: {corpus.problem}.")
            continue
        parts = [f"{told[word]}: {', '.join(names)}" for word, names in corpus.words()]
        lines.append(f"On {corpus.name}, compared with {first}: {'; '.join(parts)}.")
        if corpus.noisier:
            lines.append(f"On {corpus.name}, {corpus.noisier}.")
        lines += [f"On {corpus.name}: {note}" for note in corpus.left_out]
    return lines
