import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ablate.ablations.inference.engine import holm
from ablate.ablations.inference.scores import decimals
from ablate.models.errors import InputError
from ablate.reports import analyze

BASE = "a=off,b=off"


@pytest.mark.parametrize(
    ("column", "expected"),
    [([3.1, 2.97], 2), ([3.0, 2.0], 1), ([1, 2], 0), (["3.10", "2.9"], 2), ([1e-05, np.nan], 5)],
)
def test_decimals_are_those_of_the_text(column, expected):
    assert decimals(pd.Series(column)) == expected


def test_rounded_means_leave_an_interval_of_the_rounding(make):
    frame = make(seeds=2, utterances=1, noise=0.0)
    frame["pesq_wb"] = frame["cell"].map({"base": 2.5, "a": 2.5, "b": 2.61, "a+b": 2.61, "ref": 2.75})
    found = analyze(frame, base=BASE, baseline="ref")
    a = found.kind("main").set_index("name").loc["a"]
    se = np.sqrt(4 * 0.25 * 0.01**2 / 12)
    assert (a["se"], a["df"]) == (pytest.approx(se), pytest.approx(4))
    assert a["high"] == pytest.approx(stats.t.ppf(0.975, 4) * se)
    assert a["p"] == 1
    gap = found.kind("gap").iloc[0]
    assert 0 < gap["p"] < 1e-3


def test_where_runs_differ_by_more_than_the_rounding_nothing_changes(make):
    frame = make(seeds=3, utterances=1, noise=0.1)
    fine = analyze(frame, base=BASE, baseline="ref").effects
    rounded = analyze(frame.assign(pesq_wb=frame["pesq_wb"].round(2)), base=BASE, baseline="ref").effects
    width = lambda effects: effects["high"] - effects["low"]  # noqa: E731
    assert width(rounded).to_numpy() == pytest.approx(width(fine).to_numpy(), rel=0.3)
    plain = analyze(frame.assign(pesq_wb=frame["pesq_wb"].round(6)), base=BASE, baseline="ref").effects
    assert width(plain).to_numpy() == pytest.approx(width(fine).to_numpy(), rel=1e-3)


def test_more_seeds_do_not_average_the_rounding_away(make):
    frame = make(seeds=12, utterances=1, noise=0.0001)
    found = analyze(frame.assign(pesq_wb=frame["pesq_wb"].round(2)), base=BASE, baseline="ref")
    se, _ = found.estimates.at_seeds(500)
    assert (found.estimates.se[np.isfinite(se)] >= 0.01 / np.sqrt(12) / 2).all()
    assert (se >= 0.01 / np.sqrt(12) / 2).all()


def test_an_unknown_metric_needs_a_direction(make):
    frame = make(metric="wer", noise=0.002)
    with pytest.raises(
        InputError, match=r"'wer' is better, because it is not a registered metric.*--direction wer=lower"
    ):
        analyze(frame, base=BASE, baseline="ref", metric="wer")
    lower = analyze(frame, base=BASE, baseline="ref", metric="wer", direction="lower")
    higher = analyze(frame, base=BASE, baseline="ref", metric="wer", direction={"wer": "higher"})
    order = lower.cells.sort_values("mean")["cell"].tolist()
    assert (lower.best, higher.best) == (order[0], order[-1])
    pd.testing.assert_frame_equal(lower.effects, higher.effects)


@pytest.mark.parametrize(
    ("direction", "message"),
    [("up", "'up' is not valid"), ({"pesq_wb": "lower"}, "lower contradicts the registry")],
)
def test_a_wrong_direction_is_refused(make, direction, message):
    with pytest.raises(InputError, match=message):
        analyze(make(), base=BASE, baseline="ref", direction=direction)


def test_guards_need_a_direction_too(make):
    frame = make().assign(wer=lambda f: 5 - f["pesq_wb"])
    with pytest.raises(InputError, match="'wer' is better"):
        analyze(frame, base=BASE, baseline="ref", guardrails=["wer"])
    found = analyze(frame, base=BASE, baseline="ref", guardrails=["wer"], direction={"wer": "lower"})
    changes = found.guardrails.set_index("name")["change"]
    assert changes["gap"] == "better"


def test_levels_that_are_large_numbers_stay_apart(make):
    frame = make(factors=("a",))
    frame = frame[frame["cell"] != "ref"]
    frame["a"] = frame["a"].map({"off": 1000000.0, "on": 1000001.0})
    found = analyze(frame, base={"a": 1000000})
    assert found.levels == {"a": ("1000000", "1000001")}


def test_two_seeds_are_pointed_out(make):
    told = [note for note in analyze(make(seeds=2), base=BASE, baseline="ref").notes if "Two seeds" in note]
    assert told
    assert told[0].startswith("Two seeds in ref, base, a+b")
    assert not any("Two seeds" in note for note in analyze(make(), base=BASE, baseline="ref").notes)


def test_the_headlines_family_is_effects_remainder_and_gap(make):
    found = analyze(make(seeds=4), base=BASE, baseline="ref")
    rows = found.effects[found.effects["kind"].isin(["gap", "shapley", "unexplained"])]
    assert rows["p_headline"].to_numpy() == pytest.approx(holm(rows["p"].to_numpy()))
    assert found.effects.drop(rows.index)["p_headline"].isna().all()


def test_a_lost_effect_still_counts_in_the_headlines_family(make):
    frame = make(seeds=4)
    found = analyze(frame[frame["cell"] != "ref"], base=BASE)
    whole = analyze(frame, base=BASE, baseline="ref")
    kept = found.effects["p_headline"].dropna()
    assert len(kept) == 2
    lost = frame.assign(status=np.where(frame["cell"] == "ref", "diverged", "done"))
    still = analyze(lost, base=BASE, baseline="ref").effects
    assert (still["p_headline"].dropna().to_numpy() >= kept.to_numpy()).all()
    assert whole.effects["p_headline"].notna().sum() == 4
