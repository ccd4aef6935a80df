"""Ranks of the cells over several metrics, simulated from the engine's estimates; without verdicts.

A draw moves every cell's mean by t-distributed noise with the engine's standard error, for the cell's seeds
(with their degrees of freedom) and for the utterances. Metrics share their draws, and so do cells that share
runs. Two equal cells of three runs get P(first) above .99 in .003 of cases; a bootstrap over the three runs
gives .145.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2, rankdata

from .engine import Array
from .scores import Scores

DRAWS = 4000


@dataclass(frozen=True)
class Ranked:
    """A cell's rank.

    Attributes:
        expected_rank: mean over the metrics and the draws; 1 is the best.
        first: share of the draws in which the cell's mean rank is the best; ties are shared.
    """

    cell: str
    expected_rank: float
    first: float


def ranking(metrics: Sequence[Scores], draws: int = DRAWS) -> list[Ranked]:
    """Ranks of the cells with two or more runs in every metric, best expected rank first.

    Empty if there are fewer than two such cells.
    """
    often = [{data.cells[i] for i in np.flatnonzero(data.present.sum(1) > 1)} for data in metrics]
    cells = [cell for cell in metrics[0].cells if all(cell in there for there in often)]
    if len(cells) < 2:
        return []
    ranks = np.mean([rankdata(-drawn, axis=1) for drawn in drawn_means(metrics, cells, draws)], axis=0)
    best = np.isclose(ranks, ranks.min(1, keepdims=True))
    first = (best / best.sum(1, keepdims=True)).mean(0)
    rows = map(Ranked, cells, ranks.mean(0).tolist(), first.tolist())
    return sorted(rows, key=lambda row: row.expected_rank)


def drawn_means(metrics: Sequence[Scores], cells: Sequence[str], draws: int) -> list[Array]:
    """For each metric, (draw, cell) means that other runs and utterances could give; higher is better."""
    rng = np.random.default_rng(0)
    first = metrics[0]
    group_of = {first.cells[i]: g for g, group in enumerate(first.groups) for i in group}
    seeds = list(dict.fromkeys(seed for data in metrics for seed in data.seeds))
    utterances = list(dict.fromkeys(name for data in metrics for name in data.utterances))
    by_seed = rng.standard_normal((len(first.groups), draws, len(seeds)))
    of_group = rng.uniform(size=(len(first.groups), draws))
    by_utterance = rng.standard_normal((draws, len(utterances)))
    by_utterance /= np.sqrt(rng.chisquare(df := max(len(utterances) - 1, 1), (draws, 1)) / df)
    rounded = rng.standard_normal((draws, len(cells)))
    found = []
    for data in metrics:
        scored = [data.cells[i] for i in data.scored()]
        kept = [scored.index(cell) for cell in cells]
        weights = np.zeros((len(cells), len(scored)))
        weights[:, kept] = np.eye(len(cells)) - 1 / len(cells)
        own, beside = data.estimate(np.eye(len(scored))[kept]), data.estimate(weights)
        values = [data.values[data.cells.index(cell)] for cell in cells]
        present = [data.present[data.cells.index(cell)] for cell in cells]
        drawn = np.empty((draws, len(cells)))
        for place, (cell, block, there) in enumerate(zip(cells, values, present, strict=True)):
            runs = block[there].mean(-1)
            columns = [seeds.index(seed) for seed, one in zip(data.seeds, there, strict=True) if one]
            degrees, wanted = len(runs) - 1, own.seed_parts[place].sum()
            noise = by_seed[group_of[cell]][:, columns] @ (runs - runs.mean()) / np.sqrt(len(runs) * degrees)
            noise += rounded[:, place] * np.sqrt(max(wanted - runs.var(ddof=1) / len(runs), 0.0))
            spread = chi2.ppf(of_group[group_of[cell]], degrees) / degrees
            drawn[:, place] = own.value[place] + noise / np.sqrt(spread)
        if len(data.utterances) > 1:
            means = np.stack([block[there].mean(0) for block, there in zip(values, present, strict=True)])
            apart = means - means.mean(0)
            apart -= apart.mean(1, keepdims=True)
            across = apart.var(1, ddof=1) / len(data.utterances)
            share = np.sqrt(np.divide(beside.utterance_part, across, where=across > 0, out=0 * across))
            scale = share[:, None] / np.sqrt(len(data.utterances) * (len(data.utterances) - 1))
            columns = [utterances.index(name) for name in data.utterances]
            drawn += by_utterance[:, columns] @ (apart * scale).T
        found.append(data.direction * drawn)
    return found
