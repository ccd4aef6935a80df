"""The effects on further test corpora, beside those on the first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ablate.ablations.inference.cells import best_cell, cell_table
from ablate.ablations.inference.corpora import on_corpora
from ablate.ablations.inference.scores import Scores, read_scores
from ablate.models.errors import InputError, listed

from .sources import StudyInfo

if TYPE_CHECKING:
    from ablate.ablations.inference.analysis import Analysis


@dataclass(frozen=True, eq=False)
class OnCorpus:
    """One further test corpus.

    Attributes:
        effects: as `ablations.inference.corpora.on_corpora` gives them.
        cells: as `Analysis.cells`.
        best: as `Analysis.best`.
        problem: why there are no effects, or empty.
        left_out: what of the scores is not used.
    """

    name: str
    effects: pd.DataFrame
    cells: pd.DataFrame
    best: str | None
    utterances: int
    problem: str = ""
    left_out: tuple[str, ...] = ()

    def words(self) -> list[tuple[str, list[str]]]:
        """What is said of the effects -> their names, what agrees least in front."""
        order = ("turns round", "differs", "same sign", "agrees", "open")
        named = [(word, list(self.effects.loc[self.effects["words"] == word, "name"])) for word in order]
        return [(word, names) for word, names in named if names]


def on_further(analysis: Analysis, info: StudyInfo, wanted: Collection[tuple[str, str]]) -> list[OnCorpus]:
    """The contrasts of some (kind, name) on every further test corpus of a study."""
    if info.plan is None:
        return []
    contrasts = [contrast for contrast in analysis.contrasts if (contrast.kind, contrast.name) in wanted]
    empty = pd.DataFrame({"name": [], "words": []})
    found = []
    for test in info.plan.further_tests:
        if test.name not in info.further:
            why = info.no_further or "no run is scored on it here"
            found.append(OnCorpus(test.name, empty, pd.DataFrame(), None, 0, why))
            continue
        try:
            data = read_scores(
                info.further[test.name], analysis.metric, analysis.scores.layout, analysis.scores.better
            )
        except InputError as error:
            found.append(OnCorpus(test.name, empty, pd.DataFrame(), None, 0, str(error)))
            continue
        effects = on_corpora(contrasts, analysis.scores, data, analysis.margin, analysis.confidence)
        if effects.empty:
            why = "no effect has all its cells there"
            found.append(OnCorpus(test.name, empty, pd.DataFrame(), None, 0, why))
            continue
        cells = cell_table(data, data.estimate(np.eye(len(data.scored()))), analysis.confidence)
        best = best_cell(data, cells, analysis.confidence)
        known = {*analysis.scores.layout.notes}
        left_out = (*_unscored(analysis.scores, data), *(note for note in data.notes if note not in known))
        found.append(
            OnCorpus(test.name, effects, cells, best, len(data.utterances), left_out=tuple(left_out))
        )
    return found


def _unscored(first: Scores, other: Scores) -> list[str]:
    """A sentence on the runs that are scored on the first corpus alone."""
    there = {(other.cells[c], other.seeds[s]) for c, s in np.argwhere(other.present)}
    runs = [(first.cells[c], first.seeds[s]) for c, s in np.argwhere(first.present)]
    lacking = [f"{cell} seed {seed}" for cell, seed in runs if (cell, seed) not in there]
    return [f"{len(lacking)} of {len(runs)} runs are not scored on it: {listed(lacking)}."] if lacking else []


def corpus_lines(first: str, corpora: Sequence[OnCorpus]) -> list[str]:
    """A sentence on each further test corpus."""
    told = {
        "turns round": "turns round, by both intervals",
        "differs": "differs, by the interval of the difference",
        "same sign": "has the same sign",
        "agrees": "agrees within the margin",
        "open": "neither shown to agree nor to differ",
    }
    lines = []
    for corpus in corpora:
        if corpus.problem:
            lines.append(f"Nothing on test corpus {corpus.name}: {corpus.problem}.")
            continue
        parts = [f"{told[word]}: {', '.join(names)}" for word, names in corpus.words()]
        lines.append(f"On {corpus.name} beside {first}: {'; '.join(parts)}.")
        lines += [f"On {corpus.name}: {note}" for note in corpus.left_out]
    return lines
