from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ablate.ablations.inference.engine import estimate
from ablate.ablations.inference.scores import read_scores
from ablate.ablations.inference.test_sets import difference, on_test_sets
from ablate.reports import analyze

BASE = "a=off,b=off"


def elsewhere(make, effect: float, seed: int = 9, shift: float = 0.0) -> pd.DataFrame:
    """Other utterances of the same trainings, on which `a` has another effect."""
    frame = make(seeds=4, noise=0.01)
    there = frame.copy()
    rng = np.random.default_rng(seed)
    there["utterance"] = "far-" + there["utterance"]
    by_run = frame.groupby(["cell", "seed"])["pesq_wb"].transform("mean")
    there["pesq_wb"] = by_run + shift + rng.normal(0, 0.01, len(frame))
    there.loc[there["a"] == "on", "pesq_wb"] += effect - 0.25
    return there


def found(make, margin: float | None = 0.05, **options) -> pd.DataFrame:
    analysis = analyze(make(seeds=4, noise=0.01), base=BASE, baseline="ref")
    other = read_scores(elsewhere(make, **options), "pesq_wb", analysis.scores.layout)
    rows = [contrast for contrast in analysis.contrasts if contrast.kind in ("shapley", "gap")]
    return on_test_sets(rows, analysis.scores, other, margin, 0.95).set_index("name")


@pytest.mark.parametrize(
    ("effect", "words"), [(0.25, "agrees"), (0.1, "differs"), (-0.2, "turns round"), (0.3, "differs")]
)
def test_an_effect_is_compared_between_corpora(make, effect, words):
    table = found(make, effect=effect, shift=-0.4)
    assert table.loc["a", "words"] == words
    assert table.loc["a", "estimate"] == pytest.approx(effect, abs=0.03)
    assert table.loc["a", "difference"] == pytest.approx(0.25 - effect, abs=0.03)
    assert table.loc["b", "words"] == "agrees"
    assert table.loc["gap", "words"] == "agrees"


def test_without_a_margin_no_agreement_is_stated(make):
    table = found(make, margin=None, effect=0.25)
    assert set(table["words"]) == {"same sign"}


def test_one_seed_leaves_it_open(make):
    analysis = analyze(make(seeds=1), base=BASE, baseline="ref")
    there = make(seeds=1)
    other = read_scores(there, "pesq_wb", analysis.scores.layout)
    rows = [contrast for contrast in analysis.contrasts if contrast.kind == "gap"]
    assert list(on_test_sets(rows, analysis.scores, other, 0.05, 0.95)["words"]) == ["open"]


def test_a_contrast_without_scores_on_the_other_corpus_is_left_out(make):
    analysis = analyze(make(), base=BASE, baseline="ref")
    there = make()
    other = read_scores(there[there["cell"] != "ref"], "pesq_wb", analysis.scores.layout)
    rows = [contrast for contrast in analysis.contrasts if contrast.kind in ("main", "gap")]
    assert list(on_test_sets(rows, analysis.scores, other, 0.05, 0.95)["name"]) == ["a", "b"]


def drawn(rng: np.random.Generator, repetitions: int, shared: float, own: float, utterances: int):
    """Scores (repetition, cell, seed, utterance) on two corpora of the same two cells' trainings."""
    runs = rng.normal(0, shared, (repetitions, 2, 4, 1))
    values = []
    for _ in range(2):
        by_run = runs + rng.normal(0, own, runs.shape)
        by_utterance = rng.normal(0, 0.15, (repetitions, 1, 1, utterances))
        by_cell = rng.normal(0, 0.08, (repetitions, 2, 1, utterances))
        values.append(by_run + by_utterance + by_cell + rng.normal(0, 0.1, (repetitions, 2, 4, utterances)))
    return values


def test_the_interval_of_the_difference_covers_and_what_is_shared_drops_out():
    weights, groups, present = np.array([[-1.0, 1.0]]), [[0], [1]], np.ones((2, 4), dtype=bool)
    shares = []
    for shared in (0.0, 0.5):
        here, there = drawn(np.random.default_rng(4), 2000, shared, 0.03, 40)
        two = [estimate(values, weights, groups, present) for values in (here, there)]
        gap = difference(*two, here.mean(-1) - there.mean(-1), weights, groups, present)
        low, high = gap.interval(0.95)
        assert np.mean((low < 0) & (high > 0)) > 0.93
        shares.append(np.median(high - low))
        if shared:
            both = [estimate.interval(0.95) for estimate in two]
            assert np.median(both[0][1] - both[0][0]) > 5 * shares[-1]
    assert shares[0] == pytest.approx(shares[1], rel=0.02)
