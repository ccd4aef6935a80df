from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from ablate.ablations.design import Design
from ablate.ablations.inference.ranking import ranking
from ablate.ablations.inference.scores import Layout, read_scores
from ablate.reports import analyze

LEVELS = {"a": ("off", "on")}
LAYOUT = Layout(Design.of(LEVELS), {"off": {"a": "off"}, "on": {"a": "on"}}, base="off")


def two_cells(values, metric="m", direction="higher"):
    """Scores of two cells from (cell, seed, utterance)."""
    index = pd.MultiIndex.from_product([["off", "on"], *map(range, values.shape[1:])])
    table = pd.Series(values.ravel(), index, name=metric).reset_index()
    table.columns = ["cell", "seed", "utterance", metric]
    return read_scores(table, metric, LAYOUT, MappingProxyType({metric: direction}))


def first(metrics, **more):
    return {row.cell: row.first for row in ranking(metrics, **more)}


def test_one_utterance_is_the_probability_of_the_two_t_distributions():
    values = np.array([[2.50, 2.56, 2.48], [2.55, 2.61, 2.60]])[..., None]
    found = first([two_cells(values)], draws=40_000)
    off, on = (stats.t(2, runs.mean(), runs.std(ddof=1) / np.sqrt(3)) for runs in values[..., 0])
    expected = integrate.quad(lambda x: on.pdf(x) * off.cdf(x), 2.0, 3.2, points=[2.55, 2.6], limit=200)[0]
    assert found["on"] == pytest.approx(expected, abs=0.01)
    assert sum(found.values()) == pytest.approx(1)


def test_metrics_are_drawn_together():
    values = np.random.default_rng(3).normal(2.5, 0.1, (2, 4, 9))
    alone = first([two_cells(values)])
    assert first([two_cells(values), two_cells(2 * values, "n")]) == alone
    assert first([two_cells(values), two_cells(-values, "n", "lower")]) == alone
    assert first([two_cells(values), two_cells(-values, "n")]) == {"off": 0.5, "on": 0.5}


def test_the_utterances_noise_is_the_engines():
    rng = np.random.default_rng(5)
    by_cell = rng.normal(0, 0.3, (2, 1, 200))
    values = 2.5 + by_cell + rng.normal(0, 0.01, (2, 8, 1)) + np.array([0.0, 0.03])[:, None, None]
    found = two_cells(values)
    difference = found.estimate(np.array([[-1.0, 1.0]]))
    expected = stats.norm.cdf(difference.value[0] / difference.se[0])
    assert first([found])["on"] == pytest.approx(expected, abs=0.03)


def test_ranks_of_a_study_and_its_guards(make):
    frame = make(seeds=3, noise=0.005)
    frame["cbak"] = -frame["pesq_wb"]
    one = analyze(frame, base="a=off,b=off", baseline="ref")
    assert [row.cell for row in one.ranking] == ["ref", "a+b", "a", "b", "base"]
    assert one.ranking[0].first > 0.99
    both = analyze(frame, base="a=off,b=off", baseline="ref", guardrails=["cbak"])
    assert [row.expected_rank for row in both.ranking] == pytest.approx([3.0] * 5)
    single = frame[(frame["cell"] != "a") | (frame["seed"] == 1)]
    assert "a" not in {row.cell for row in analyze(single, base="a=off,b=off", baseline="ref").ranking}


@pytest.mark.slow
def test_two_equal_cells_are_seldom_told_apart_with_three_trainings():
    rng = np.random.default_rng(11)
    sure = 0
    for _ in range(1200):
        seeds = rng.normal(0, 0.03, (2, 3, 1))
        values = 2.5 + rng.normal(0, 0.5, 6) + rng.normal(0, 0.05, (2, 1, 6)) + seeds
        sure += max(first([two_cells(values)], draws=2000).values()) > 0.99
    assert sure / 1200 < 0.012
