from itertools import product

import numpy as np
import pytest

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
    assert p_of(found, "one-in", "a") == p_of(found, "simple", "a", "b=off") == pytest.approx(share["a"])
    assert p_of(found, "main", "a") == pytest.approx((share["a"] + share["a+b"]) / 2)
    assert np.isnan(p_of(found, "interaction", "a x b"))


def test_shared_trainings_are_compared_seed_by_seed(make):
    frame = make(seeds=4, noise=0.2)
    frame["training"] = frame["a"].fillna("ref").astype(str)
    found = analyze(frame, base=BASE, baseline="ref")
    wins = run_means(frame, "b") > run_means(frame, "base")
    assert p_of(found, "simple", "b", "a=off") == wins.mean()


def test_equal_scores_of_one_training_are_a_tie(make):
    frame = make(factors=("a",))
    off = frame[frame["a"] == "off"].sort_values(["seed", "utterance"])["pesq_wb"].to_numpy()
    frame.loc[frame[frame["a"] == "on"].sort_values(["seed", "utterance"]).index, "pesq_wb"] = off
    frame["training"] = frame["a"].map({"off": "same", "on": "same"})
    assert p_of(analyze(frame, base="a=off", baseline="ref"), "main", "a") == 0.5


def test_a_fraction_compares_no_cells_that_differ_in_one_factor_alone(make):
    frame = make(factors=("a", "b", "c"))
    half = frame[frame["cell"].isin(["a", "b", "c", "a+b+c", "ref"])]
    found = analyze(half, base="a=off,b=off,c=off", baseline="ref")
    assert found.design == "fractional"
    assert found.kind("main")["p_higher"].isna().all()
