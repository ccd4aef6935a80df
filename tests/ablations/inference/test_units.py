import numpy as np
import pytest
from scipy import stats

from ablate.ablations.inference.units import others
from ablate.reports import analyze

BASE = "a=off,b=off"


def by_name(analysis, column="speaker"):
    return {row.name: row for row in analysis.by_unit if row.column == column}


def effect_of(frame, on=("a", "a+b"), off=("base", "b")):
    means = frame.groupby("cell")["pesq_wb"].mean()
    return means[list(on)].mean() - means[list(off)].mean()


def test_range_and_leave_one_out_are_estimates_of_parts_of_the_table(make):
    frame = make(seeds=4, utterances=20)
    frame["speaker"] = frame["utterance"].map({f"u{i}": f"p{i % 3}" for i in range(20)})
    found = by_name(analyze(frame, base=BASE, baseline="ref"))
    assert set(found) == {"a", "b", "unexplained", "gap"}
    a = found["a"]
    within = {s: effect_of(part) for s, part in frame.groupby("speaker")}
    assert (a.least, a.most) == (pytest.approx(min(within.values())), pytest.approx(max(within.values())))
    assert within[a.least_in] == pytest.approx(a.least)
    left = {s: effect_of(frame[frame["speaker"] != s]) for s in within}
    assert a.without == min(left, key=left.get)
    again = analyze(frame[frame["speaker"] != a.without], base=BASE, baseline="ref").kind("shapley")
    again = again.set_index("name").loc["a"]
    assert (a.without_estimate, a.without_low) == (
        pytest.approx(again["estimate"]),
        pytest.approx(again["low"]),
    )
    assert np.isnan(a.others_low)


def test_an_effect_that_one_speaker_carries_is_said(make):
    frame = make(seeds=4, utterances=20, noise=0.01)
    frame["speaker"] = frame["utterance"].map({f"u{i}": f"p{i % 4}" for i in range(20)})
    frame["pesq_wb"] -= (frame["a"] == "on") * (frame["speaker"] != "p2") * 0.25
    found = analyze(frame, base=BASE, baseline="ref")
    assert by_name(found)["a"].carried
    assert not by_name(found)["b"].carried
    assert any(note.startswith("a depends on one speaker, p2: without it") for note in found.notes)


def test_speakers_and_noises_stand_beside_each_other_and_one_alone_is_left_out(make):
    frame = make(utterances=12)
    found = analyze(frame, base=BASE, baseline="ref")
    assert {row.column for row in found.by_unit} == {"speaker"}
    frame["noise"] = frame["utterance"].map({f"u{i}": "cafe" if i < 6 else "bus" for i in range(12)})
    found = analyze(frame, base=BASE, baseline="ref")
    assert {row.column for row in found.by_unit} == {"speaker", "noise"}
    without = analyze(frame.drop(columns=["speaker", "noise"]), base=BASE, baseline="ref")
    assert list(without.by_unit) == []


def test_the_interval_for_others_is_a_t_interval_over_units_where_seeds_are_certain():
    rng = np.random.default_rng(0)
    within = rng.normal(0.1, 0.05, size=(6, 1))
    half = others(np.zeros((1, 2)), np.full((1, 2), 2), within, np.full(6, 10), 0.95)
    expected = stats.t.ppf(0.975, 5) * within[:, 0].std(ddof=1) / np.sqrt(6)
    assert half[0] == pytest.approx(expected)
    more = others(np.full((1, 2), 1e-4), np.full((1, 2), 2), within, np.full(6, 10), 0.95)
    assert more[0] > half[0]
    assert np.isnan(others(np.zeros((1, 2)), np.full((1, 2), 2), within[:3], np.full(3, 10), 0.95)).all()


def test_from_four_speakers_on_it_is_there_and_wider_where_they_differ(make):
    frame = make(seeds=4, utterances=24)
    frame["speaker"] = frame["utterance"].map({f"u{i}": f"p{i % 6}" for i in range(24)})
    rng = np.random.default_rng(1)
    of_speaker = {f"p{i}": rng.normal(0, 0.1) for i in range(6)}
    frame["pesq_wb"] += frame["speaker"].map(of_speaker) * (frame["a"] == "on")
    found = analyze(frame, base=BASE, baseline="ref")
    row, (_, effect) = by_name(found)["a"], next(found.kind("shapley").query("name == 'a'").iterrows())
    assert row.others_high - row.others_low > 1.5 * (effect["high"] - effect["low"])
