"""The effects on further test corpora, beside those on the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ablate.ablations.inference.cells import best_cell, cell_table
from ablate.ablations.inference.corpora import on_corpora
from ablate.ablations.inference.engine import estimate
from ablate.ablations.inference.scores import read_scores
from ablate.models.errors import InputError

from .collect import StudyInfo

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
    """

    name: str
    effects: pd.DataFrame
    cells: pd.DataFrame
    best: str | None
    utterances: int
    problem: str = ""

    def words(self) -> list[tuple[str, list[str]]]:
        """What is said of the effects -> their names, what agrees least in front."""
        order = ("turns round", "differs", "same sign", "agrees", "open")
        named = [(word, list(self.effects.loc[self.effects["words"] == word, "name"])) for word in order]
        return [(word, names) for word, names in named if names]


def on_further(analysis: Analysis, info: StudyInfo, kinds: Sequence[str]) -> list[OnCorpus]:
    """The contrasts of some kinds on every further test corpus of a study."""
    if info.plan is None:
        return []
    contrasts = [contrast for contrast in analysis.contrasts if contrast.kind in kinds]
    empty = pd.DataFrame({"name": [], "words": []})
    found = []
    for test in info.plan.further_tests:
        if test.name not in info.further:
            found.append(OnCorpus(test.name, empty, pd.DataFrame(), None, 0, "no run is scored on it here"))
            continue
        try:
            data = read_scores(info.further[test.name], analysis.metric, analysis.scores.layout)
        except InputError as error:
            found.append(OnCorpus(test.name, empty, pd.DataFrame(), None, 0, str(error)))
            continue
        effects = on_corpora(contrasts, analysis.scores, data, analysis.margin, analysis.confidence)
        scored = data.scored()
        means = estimate(
            data.values[scored], np.eye(len(scored)), data.groups_of(scored), data.present[scored]
        )
        cells = cell_table(data, means, analysis.confidence)
        best = best_cell(data, cells, analysis.confidence)
        found.append(OnCorpus(test.name, effects, cells, best, len(data.utterances)))
    return found


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
    return lines
