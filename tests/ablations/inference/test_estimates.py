import json
import subprocess
import sys
import time
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ablate.ablations.design import Design
from ablate.ablations.inference.engine import estimate, holm
from ablate.ablations.inference.estimates import infer
from ablate.ablations.inference.pooled import crossed_model
from ablate.ablations.inference.scores import Layout, read_scores
from ablate.models.errors import InputError
from ablate.reports import analyze

BASE = "a=off,b=off"


def row(analysis, kind, name, at=""):
    table = analysis.effects
    found = table[(table["kind"] == kind) & (table["name"] == name) & (table["at"] == at)]
    assert len(found) == 1
    return found.iloc[0]


def cell_means(frame, cell):
    return frame[frame["cell"] == cell].groupby("seed")["pesq_wb"].mean().to_numpy()


def test_signs_columns_and_exact_sum(make):
    frame = make(noise=0.001)
    found = analyze(frame, base=BASE, baseline="ref")
    assert " ".join(found.effects.columns[:10]) == "name kind estimate se df low high p p_holm verdict"
    assert row(found, "gap", "gap").estimate == pytest.approx(0.4, abs=0.01)
    assert row(found, "main", "a").estimate == pytest.approx(0.25, abs=0.01)
    assert row(found, "unexplained", "unexplained").estimate == pytest.approx(0.05, abs=0.01)
    total = found.kind("shapley")["estimate"].sum() + found.kind("unexplained")["estimate"].sum()
    assert total == pytest.approx(row(found, "gap", "gap").estimate, abs=1e-9)
    assert set(found.effects["kind"]) == {
        "gap", "main", "shapley", "unexplained", "interaction", "leave-one-out", "add-one", "simple"
    }  # fmt: skip


def test_one_utterance_gap_is_welchs_t_test(make):
    frame = make(seeds=5, utterances=1)
    frame = frame[~((frame["cell"] == "ref") & (frame["seed"] == 2))]
    expected = stats.ttest_ind(cell_means(frame, "ref"), cell_means(frame, "base"), equal_var=False)
    interval = expected.confidence_interval(0.95)
    gap = row(analyze(frame, base=BASE, baseline="ref"), "gap", "gap")
    assert gap.p == pytest.approx(expected.pvalue)
    assert gap.df == pytest.approx(expected.df)
    assert (gap.low, gap.high) == pytest.approx((interval.low, interval.high))


def test_evaluation_only_factor_is_a_paired_difference_on_the_same_checkpoints(make):
    frame = make(seeds=4, utterances=1)
    frame["training"] = frame["a"].fillna("ref").astype(str) + "-" + frame["seed"].astype(str)
    found = analyze(frame, base=BASE, baseline="ref")
    simple = row(found, "simple", "b", "a=on")
    expected = stats.ttest_rel(cell_means(frame, "a+b"), cell_means(frame, "a"))
    assert simple.p == pytest.approx(expected.pvalue)
    assert simple.df == pytest.approx(3)
    assert any("same checkpoints" in note for note in found.notes)
    apart = analyze(frame.drop(columns="training"), base=BASE, baseline="ref")
    a = row(found, "main", "a")
    halves = [(cell_means(frame, x) + cell_means(frame, y)) / 2 for x, y in (("a", "a+b"), ("base", "b"))]
    assert a.p == pytest.approx(stats.ttest_ind(*halves, equal_var=False).pvalue)
    assert a.estimate == pytest.approx(row(apart, "main", "a").estimate)
    assert a.se != pytest.approx(row(apart, "main", "a").se)


def test_two_cells_of_one_training_and_equal_scores_differ_by_exactly_nothing(make):
    frame = make(factors=("a",))
    off = frame[frame["a"] == "off"].sort_values(["seed", "utterance"])["pesq_wb"].to_numpy()
    order = frame[frame["a"] == "on"].sort_values(["seed", "utterance"]).index
    frame.loc[order, "pesq_wb"] = off
    frame["training"] = frame["a"].map({"off": "same", "on": "same"}) + frame["seed"].astype(str)
    main = row(analyze(frame, base="a=off", baseline="ref"), "main", "a")
    assert (main.estimate, main.se, main.low, main.high, main.p) == (0, 0, 0, 0, 1)


def test_standard_error_is_the_stated_sum_of_variances():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(3, 4, 9)) + rng.normal(size=(3, 1, 9)) + rng.normal(size=(3, 4, 1))
    weights = np.array([0.5, 0.5, -1.0])
    found = estimate(scores, weights[None], [[0], [1], [2]])
    seed_part = residual = residual_spread = seed_spread = 0.0
    for c, w in enumerate(weights):
        part = w**2 * scores[c].mean(1).var(ddof=1) / 4
        seed_part, seed_spread = seed_part + part, seed_spread + part**2 / 3
        rest = scores[c] - scores[c].mean(0) - scores[c].mean(1)[:, None] + scores[c].mean()
        square = w**2 * (rest**2).sum() / (3 * 8) / 4
        residual, residual_spread = residual + square, residual_spread + (square / 9) ** 2 / 24
    across = np.tensordot(weights, scores.mean(1), 1).var(ddof=1)
    variance = seed_part + (across - residual) / 9
    assert across > residual
    assert found.se[0] == pytest.approx(np.sqrt(variance))
    df = variance**2 / (seed_spread + (across / 9) ** 2 / 8 + residual_spread)
    assert found.df[0] == pytest.approx(df)


def test_shared_trainings_with_a_missing_evaluation_keep_every_cell_mean(make):
    frame = make(seeds=5, utterances=6)
    frame["training"] = frame["a"].fillna("ref").astype(str) + "-" + frame["seed"].astype(str)
    gone = (frame["cell"] == "a+b") & (frame["seed"] == 5)
    found = analyze(frame[~gone], base=BASE, baseline="ref")
    kept = frame[~gone].groupby("cell")["pesq_wb"].mean()
    assert row(found, "simple", "b", "a=on").estimate == pytest.approx(kept["a+b"] - kept["a"])
    assert row(found, "simple", "b", "a=on").se > 0
    total = found.kind("shapley")["estimate"].sum() + found.kind("unexplained")["estimate"].sum()
    assert total == pytest.approx(row(found, "gap", "gap").estimate, abs=1e-9)


def test_one_seed_gives_no_interval_and_says_why(make):
    frame = make()
    found = analyze(frame[(frame["cell"] != "base") | (frame["seed"] == 1)], base=BASE, baseline="ref")
    gap = row(found, "gap", "gap")
    assert np.isfinite(gap.estimate)
    assert np.isnan([gap.se, gap.df, gap.low, gap.high, gap.p]).all()
    assert gap.verdict == "undecided"
    assert "one seed in base" in gap.note
    assert np.isfinite(row(found, "simple", "a", "b=on").se)
    assert any(note.startswith("Only one seed in base") for note in found.notes)


def test_missing_cell_is_named_and_not_imputed(make):
    frame = make()
    found = analyze(frame[frame["cell"] != "a"], base=BASE, baseline="ref")
    assert not {"shapley", "main", "interaction"} & set(found.effects["kind"])
    assert {(n.kind, n.name, n.missing) for n in found.not_estimable} >= {
        ("main", "a", ("a=on,b=off",)),
        ("shapley", "b", ("a=on,b=off",)),
    }
    assert row(found, "gap", "gap").estimate == pytest.approx(0.4, abs=0.1)


def test_diverged_runs_are_counted_and_left_out(make):
    frame = make(seeds=4)
    frame["status"] = "done"
    gone = (frame["cell"] == "a") & (frame["seed"] <= 1)
    frame.loc[gone, "status"] = "diverged"
    frame.loc[gone, "pesq_wb"] = np.nan
    found = analyze(frame, base=BASE, baseline="ref")
    rate = found.divergence.set_index("cell").loc["a"]
    assert (rate["runs"], rate["diverged"], rate["rate"]) == (4, 1, 0.25)
    low, high = stats.binomtest(1, 4).proportion_ci(0.95, method="exact")
    assert (rate["low"], rate["high"]) == pytest.approx((low, high))
    assert found.cells.set_index("cell").loc["a", "runs"] == 3
    assert any("conditional on convergence" in note for note in found.notes)
    one_row_each = pd.concat([frame[~gone], frame[gone].head(1).assign(utterance=None)])
    pd.testing.assert_frame_equal(analyze(one_row_each, base=BASE, baseline="ref").effects, found.effects)


def test_a_cell_whose_runs_all_diverged_is_missing(make):
    frame = make()
    frame["status"] = np.where(frame["cell"] == "b", "diverged", "done")
    found = analyze(frame, base=BASE, baseline="ref")
    assert ("main", "b", ("b",), "") in found.not_estimable
    assert found.divergence.set_index("cell").loc["b", "rate"] == 1


def test_without_a_baseline_there_is_no_gap(make):
    frame = make()
    found = analyze(frame[frame["cell"] != "ref"], base=BASE)
    assert not {"gap", "unexplained"} & set(found.effects["kind"])
    assert len(found.kind("shapley")) == 2


def test_other_metrics(make):
    frame = make(metric="stoi")
    assert len(analyze(frame, base=BASE, baseline="ref", metric="stoi").kind("shapley")) == 2
    with pytest.raises(ValueError, match="lack pesq_wb"):
        analyze(frame, base=BASE, baseline="ref")


def closed(p):
    """Holm's adjusted values as a closed test: the largest Bonferroni p of all sets with a hypothesis."""
    sets = [list(each) for size in range(1, len(p) + 1) for each in combinations(range(len(p)), size)]
    tested = [(each, min(1.0, len(each) * min(p[i] for i in each))) for each in sets]
    return [max(value for each, value in tested if i in each) for i in range(len(p))]


def test_holm_over_the_main_effects(make):
    p = np.random.default_rng(0).uniform(0, 0.1, (20, 5))
    for line, adjusted in zip(p, holm(p), strict=True):
        assert adjusted == pytest.approx(closed(line))
    assert holm(np.array([0.02, np.nan, 0.03])) == pytest.approx([0.06, np.nan, 0.06], nan_ok=True)
    assert holm(np.array([0.02, 0.03]), family=3) == pytest.approx(closed([0.02, 0.03, 1.0])[:2])
    found = analyze(make(factors=("a", "b", "c")), factors=["a", "b", "c"], baseline="ref")
    main = found.kind("main")
    assert main["p_holm"].to_numpy() == pytest.approx(closed(main["p"].to_numpy()))
    assert found.effects.loc[found.effects["kind"] != "main", "p_holm"].isna().all()


def test_subsets(make):
    frame = make()
    found = analyze(frame, base=BASE, baseline="ref")
    by_snr = found.by("snr")
    part = analyze(frame[frame["snr"] == 5.0], base=BASE, baseline="ref")
    chosen = by_snr[(by_snr["snr"] == 5.0) & (by_snr["kind"] == "gap")].iloc[0]
    assert chosen["utterances"] == 3
    assert (chosen["estimate"], chosen["se"]) == pytest.approx(
        tuple(row(part, "gap", "gap")[["estimate", "se"]])
    )
    cells = by_snr[(by_snr["snr"] == 5.0) & (by_snr["kind"] == "cell")].set_index("name")["estimate"]
    assert cells["base"] == pytest.approx(
        frame[(frame["snr"] == 5) & (frame["cell"] == "base")]["pesq_wb"].mean()
    )
    assert sorted(found.by("speaker")["speaker"].unique()) == ["p0", "p1"]
    with pytest.raises(ValueError, match="no column 'sex'"):
        found.by("sex")


def test_json_has_a_version_and_every_effect(make):
    frame = make()
    found = analyze(frame[(frame["cell"] != "base") | (frame["seed"] == 1)], base=BASE, baseline="ref")
    data = json.loads(found.to_json())
    assert (data["schema"], data["version"]) == ("ablate.analysis", 1)
    assert len(data["effects"]) == len(found.effects)
    assert data["effects"][0]["name"] == "gap"
    assert data["effects"][0]["se"] is None
    assert data["effects"][0]["weights"] == {"ref": 1.0, "base": -1.0}
    assert data["pooled"]["label"].startswith("secondary")


def test_fraction_of_a_grid(make):
    frame = make(factors=("a", "b", "c"))
    half = frame[frame["cell"].isin(["a", "b", "c", "a+b+c", "ref"])]
    found = analyze(half, base="a=off,b=off,c=off", baseline="ref", claims={"a": (0.2, 0.3)})
    assert found.design == "fractional"
    assert found.aliases["a"] == ("b x c",)
    assert row(found, "main", "a").estimate == pytest.approx(0.25, abs=0.1)
    assert row(found, "main", "a").verdict != ""
    assert any("does not resolve Shapley values" in note for note in found.notes)


def test_the_package_answers_without_loading_pandas():
    code = "import sys, ablate.reports as r; assert 'pandas' not in sys.modules; print(r.analyze.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "analyze"


@pytest.mark.slow
def test_a_thousand_runs_take_seconds(make):
    frame = make(seeds=15, utterances=824, factors=tuple("abcdef"))
    assert frame.groupby(["cell", "seed"]).ngroups == 975
    start = time.perf_counter()
    analyze(frame, factors=list("abcdef"), baseline="ref")
    assert time.perf_counter() - start < 10


def cells_of(frame):
    """The levels of each cell of a table; none of one outside the factorial."""
    first = frame.groupby("cell").first()[[name for name in "abc" if name in frame]]
    return {cell: row.dropna().to_dict() for cell, row in first.iterrows()}


def test_cells_of_the_plan_without_any_row_are_named(make):
    frame = make()
    layout = Layout.planned(Design.of(dict.fromkeys("ab", ("off", "on"))), cells_of(frame), "ref")
    found = infer(read_scores(frame[frame["cell"] != "a"], "pesq_wb", layout))
    assert ("main", "a", ("a",), "") in found.not_estimable


def test_one_in_design_that_is_not_finished(make):
    frame = make(factors=("a", "b", "c"))
    cells = cells_of(frame[frame["cell"].isin(["base", "a", "b", "c"])])
    layout = Layout.planned(Design.of(dict.fromkeys("abc", ("off", "on")), "add-one"), cells)
    found = infer(read_scores(frame[frame["cell"].isin(["base", "a"])], "pesq_wb", layout))
    assert found.design == "add-one"
    assert row(found, "main", "a").estimate == pytest.approx(row(found, "add-one", "a").estimate)
    assert ("main", "c", ("c",), "") in found.not_estimable


def test_the_utterances_share_is_never_negative():
    rng = np.random.default_rng(4)
    scores = rng.normal(size=(2, 3, 4))
    scores -= scores.mean(1, keepdims=True)
    scores += rng.normal(size=(2, 3, 1))
    found = estimate(scores, np.array([[-1.0, 1.0]]), [[0], [1]])
    seed_part = sum(cell.mean(1).var(ddof=1) / 3 for cell in scores)
    assert found.utterance_part[0] == 0
    assert found.variance[0] == pytest.approx(seed_part)


def test_what_is_left_of_two_nearly_equal_variances_has_one_degree_of_freedom():
    utterances = np.array([[-0.01, 0.01], [-0.01, 0.01]]) + np.array([[0.0099, -0.0099], [-0.0099, 0.0099]])
    scores = np.stack([0.9 + utterances + [[1e-4], [-1e-4]], np.full((2, 2), 0.9)])
    found = estimate(scores, np.array([[1.0, -1.0]]), [[0], [1]])
    assert found.variance[0] == pytest.approx(2e-6, rel=0.02)
    assert found.utterance_df[0] < 1e-3
    assert found.df[0] == 1
    assert found.half_width(0.95)[0] == pytest.approx(stats.t.ppf(0.975, 1) * found.se[0])
    assert crossed_model(scores).df >= 1


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(2, 3), st.integers(2, 3), st.integers(2, 4)),
    sizes=st.tuples(*[st.sampled_from([0.0, 1e-9, 1e-3, 1.0])] * 3),
)
def test_no_interval_is_wider_than_one_degree_of_freedom_makes_it(seed, shape, sizes):
    cells, seeds, utterances = shape
    rng = np.random.default_rng(seed)
    terms = (shape, (cells, seeds, 1), (cells, 1, utterances))
    scores = sum(size * rng.normal(size=term) for size, term in zip(sizes, terms, strict=True)) + 1.0
    found = estimate(scores, np.eye(cells) - np.eye(cells)[0], [[c] for c in range(cells)])
    half = found.half_width(0.95)
    widest = stats.t.ppf(0.975, 1) * np.sqrt(found.seed_parts.sum(-1) + found.utterance_part)
    assert (half <= widest * (1 + 1e-6)).all()
    assert (half <= 13 * 2 * np.ptp(scores) + 1e-12).all()


def test_where_the_formula_gives_less_than_one_degree_of_freedom_intervals_hold_the_truth():
    rng = np.random.default_rng(5)
    scores = 0.2 * rng.normal(size=(20_000, 2, 2, 3)) + 0.05 * rng.normal(size=(20_000, 2, 1, 3))
    found = estimate(scores, np.array([[1.0, -1.0]]), [[0], [1]])
    low, high = (end[:, 0] for end in found.interval(0.95))
    bounded = found.df[:, 0] == 1
    assert 0.1 < bounded.mean() < 0.2
    holds = (low <= 0) & (high >= 0)
    assert holds[bounded].mean() > 0.95
    assert holds.mean() > 0.95


def test_an_effect_that_is_lost_stays_in_the_family(make):
    frame = make(noise=0.12)
    frame = pd.concat([frame, frame[frame["cell"] == "base"].assign(a="far", cell="far")])
    found = analyze(frame, base=BASE, baseline="ref", levels={"a": ["off", "on", "far"]})
    assert ("main", "a=far") in {(lost.kind, lost.name) for lost in found.not_estimable}
    main = found.kind("main")
    assert main["p_holm"].min() == pytest.approx(min(1, 3 * main["p"].min()))


def test_two_seeds_with_the_same_scores_to_the_last_bit_are_refused(make):
    frame = make()
    there = frame["cell"] == "a"
    copied = frame.loc[there & (frame["seed"] == 1), "pesq_wb"].to_numpy()
    frame.loc[there & (frame["seed"] == 3), "pesq_wb"] = copied
    with pytest.raises(InputError, match="cell 'a': seeds 1 and 3 have the same scores to the last bit"):
        analyze(frame, base=BASE, baseline="ref")
    few = frame[frame["utterance"].isin(["u0", "u1"])]
    with pytest.raises(InputError, match="to the last bit on all 2 utterances"):
        analyze(few, base=BASE, baseline="ref")
    assert analyze(few.round({"pesq_wb": 1}), base=BASE, baseline="ref").cells["runs"].min() == 3
    frame.loc[there & (frame["seed"] != 2), "pesq_wb"] = 1.0
    assert analyze(frame, base=BASE, baseline="ref").cells["runs"].min() == 3


def test_a_run_that_was_badly_scored_costs_the_others_nothing(make):
    frame = make()
    bad = (frame["cell"] == "b") & (frame["seed"] == 2)
    frame.loc[bad & ~frame["utterance"].isin(["u1", "u2"]), "pesq_wb"] = np.nan
    found = analyze(frame, base=BASE, baseline="ref")
    assert found.utterances == 12
    assert found.cells.set_index("cell").loc["b", "runs"] == 2
    assert any("b seed 2 (2)" in note and "Score them again" in note for note in found.notes)
    pd.testing.assert_frame_equal(found.effects, analyze(frame[~bad], base=BASE, baseline="ref").effects)


def test_seeds_to_come_where_shared_trainings_overlap_in_part():
    """The expected variance at n common seeds is that of n common seeds, whatever overlaps now."""
    rng = np.random.default_rng(5)
    repetitions, seeds = 4000, 12
    weights = np.array([[0.5, 0.5, -1.0], [-1.0, 1.0, 0.0]])
    shared, own = 0.1, 0.03
    training = rng.normal(0, shared, (repetitions, 1, seeds, 1))
    scores = np.concatenate([training, training, rng.normal(0, shared, training.shape)], axis=1)
    scores = scores + rng.normal(0, own, scores.shape)
    present = np.zeros((3, seeds), dtype=bool)
    present[0, :10] = present[1, 8:] = present[2, :5] = True
    found = estimate(scores, weights, [[0, 1], [2]], present)
    truth = np.array([shared**2 * 2 + own**2 * 1.5, 2 * own**2])
    for count in (2, 6):
        expected = found.at_seeds(count)[0] ** 2
        assert expected.mean(0) == pytest.approx(truth / count, rel=0.08)
    assert found.variance.mean(0) == pytest.approx(found.value.var(0), rel=0.1)


def test_simple_effects_are_there_when_asked_for(make):
    found = analyze(make(), base=BASE, baseline="ref")
    listed = found.kind("simple").query("name == 'a'").reset_index(drop=True)
    pd.testing.assert_frame_equal(found.simple("a"), listed[found.simple("a").columns])
    with pytest.raises(InputError, match="did you mean 'b'"):
        found.simple("bb")


def test_cells_alone_and_cells_that_share_trainings_are_the_same_formula():
    """A group of one cell takes another path than a group of several: both give one cell's variance."""
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(3, 5, 7)) + rng.normal(size=(3, 5, 1))
    present = np.ones((3, 5), dtype=bool)
    present[1, 3:] = False
    weights = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0]])
    alone = estimate(scores, weights, [[0], [1], [2]], present)
    grouped = estimate(scores, weights, [[0, 1, 2]], present)
    for name in ("value", "se", "df", "utterance_part"):
        assert getattr(alone, name) == pytest.approx(getattr(grouped, name))
    assert alone.at_seeds(9)[0] == pytest.approx(grouped.at_seeds(9)[0])


def test_a_cell_is_best_only_where_it_differs_from_the_runner_up(make):
    frame = make(noise=0.01)
    assert analyze(frame, base=BASE, baseline="ref").best == "ref"
    frame.loc[frame["cell"] == "ref", "pesq_wb"] -= 0.05
    assert analyze(frame, base=BASE, baseline="ref").best is None
    assert analyze(frame[frame["seed"] == 1], base=BASE, baseline="ref").best is None


def test_the_best_of_a_metric_that_should_fall_is_the_lowest(make, monkeypatch):
    from ablate.training.metrics.registry import METRICS, Metric

    falling = Metric("distance", "distance", lambda pair: 0.0, 9.0, higher_is_better=False)
    monkeypatch.setitem(METRICS, "distance", falling)
    frame = make(noise=0.01, metric="distance")
    assert analyze(frame, base=BASE, baseline="ref", metric="distance").best == "base"


@pytest.mark.parametrize("groups", [[[0], [1], [2]], [[0, 1], [2]]], ids=["apart", "of one training"])
def test_widths_and_degrees_of_freedom_do_not_depend_on_how_good_a_cell_is(groups):
    rng = np.random.default_rng(3)
    weights = np.array([[0.5, 0.5, -1.0], [-1.0, 1.0, 0.0], [1.0, 0.0, -1.0]])
    scores = rng.normal(0, 0.05, (3, 4, 6)) + rng.normal(0, 0.2, (3, 1, 6))
    better = scores + np.array([0.0, 3.0, -2.0])[:, None, None]
    before, after = estimate(scores, weights, groups), estimate(better, weights, groups)
    assert after.value == pytest.approx(before.value + weights @ [0.0, 3.0, -2.0])
    assert after.se == pytest.approx(before.se)
    assert after.df == pytest.approx(before.df)
    assert (before.utterance_part > 0).all()
