from itertools import product

import numpy as np
import pytest

from ablate.ablations.inference.retraining import _summed, _wins
from ablate.reports import analyze

BASE = "a=off,b=off"


def p_of(analysis, kind, name, at=""):
    table = analysis.effects
    return table[(table["kind"] == kind) & (table["name"] == name) & (table["at"] == at)]["p_higher"].item()


def run_means(frame, cell):
    return frame[frame["cell"] == cell].groupby("seed")["pesq_wb"].mean().to_numpy()


def test_it_is_the_share_of_pairs_of_seeds(make):
    frame = make(seeds=6, noise=0.15)
    found = analyze(frame, base=BASE, baseline="ref")
    share = {}
    for on, off in (("ref", "base"), ("a", "base"), ("a+b", "b")):
        pairs = list(product(run_means(frame, on), run_means(frame, off)))
        share[on] = np.mean([x > y for x, y in pairs])
    assert p_of(found, "gap", "gap") == pytest.approx(share["ref"])
    assert p_of(found, "add-one", "a") == p_of(found, "simple", "a", "b=off") == pytest.approx(share["a"])
    assert p_of(found, "main", "a") == pytest.approx((share["a"] + share["a+b"]) / 2)
    assert np.isnan(p_of(found, "interaction", "a x b"))


def test_shared_trainings_are_compared_seed_by_seed(make):
    frame = make(seeds=4, noise=0.2)
    frame["training"] = frame["a"].fillna("ref").astype(str) + "-" + frame["seed"].astype(str)
    found = analyze(frame, base=BASE, baseline="ref")
    wins = run_means(frame, "b") > run_means(frame, "base")
    assert p_of(found, "simple", "b", "a=off") == wins.mean()


def test_equal_scores_of_one_training_are_a_tie(make):
    frame = make(factors=("a",))
    off = frame[frame["a"] == "off"].sort_values(["seed", "utterance"])["pesq_wb"].to_numpy()
    frame.loc[frame[frame["a"] == "on"].sort_values(["seed", "utterance"]).index, "pesq_wb"] = off
    frame["training"] = frame["a"].map({"off": "same", "on": "same"}) + frame["seed"].astype(str)
    assert p_of(analyze(frame, base="a=off", baseline="ref"), "main", "a") == 0.5


def test_a_fraction_compares_no_cells_that_differ_in_one_factor_alone(make):
    frame = make(factors=("a", "b", "c"))
    half = frame[frame["cell"].isin(["a", "b", "c", "a+b+c", "ref"])]
    found = analyze(half, base="a=off,b=off,c=off", baseline="ref")
    assert found.design == "fractional"
    assert found.kind("main")["p_higher"].isna().all()


def test_few_trainings_are_counted_and_ten_give_a_probability(make):
    few = analyze(make(seeds=3, noise=0.15), base=BASE, baseline="ref").effects
    simple = few[few["kind"] == "simple"]
    assert (simple["pairs"] == 9).all()
    assert (few[few["kind"] == "main"]["pairs"] == 18).all()
    assert (simple["pairs_higher"] / 9).to_numpy() == pytest.approx(simple["p_higher"].to_numpy())
    assert few["p_higher_low"].isna().all()
    many = analyze(make(seeds=10, noise=0.15), base=BASE, baseline="ref").effects
    many = many[many["p_higher"].notna()]
    assert (many["p_higher_low"] <= many["p_higher"]).all()
    assert (many["p_higher"] <= many["p_higher_high"]).all()
    certain = many[many["p_higher"] == 1]
    assert (certain["p_higher_high"] == 1).all()
    assert (certain["p_higher_low"] < 1).all()


def test_the_interval_of_the_probability_holds_it(make):
    """Normal trainings, one SD apart: P = .760; two Monte-Carlo standard errors are allowed."""
    from scipy import stats

    rng = np.random.default_rng(4)
    truth, held, repetitions = stats.norm.cdf(1 / np.sqrt(2)), 0, 400
    for _ in range(repetitions):
        means = {"off": rng.normal(0, 1, 10), "on": rng.normal(1, 1, 10)}
        wins = _wins(np.stack([means["on"], means["off"]]), np.ones((2, 10), dtype=bool), shared=False)
        found = _summed([(1.0, wins)], stats.norm.ppf(0.975))
        held += found.p_higher_low <= truth <= found.p_higher_high
    assert held / repetitions >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / repetitions)
