import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.ablations.inference.holes import filled, islands
from ablate.models.errors import InputError
from ablate.reports import analyze

BASE = "a=off,b=off"


def with_holes(frame, share, seed=0):
    rng = np.random.default_rng(seed)
    return frame.assign(pesq_wb=frame["pesq_wb"].where(rng.random(len(frame)) >= share))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(3, 8), st.integers(4, 12), st.floats(0, 0.4))
def test_a_runs_mean_is_that_of_the_additive_fit(seed, runs, utterances, share):
    """Against dummies for runs and utterances in one least-squares problem."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(runs, utterances))
    values[rng.random(values.shape) < share] = np.nan
    values = values[:, np.isfinite(values).any(0)]
    values = values[np.isfinite(values).any(1)]
    if islands(np.isfinite(values)).any() or len(values) < 2:
        return
    run, utterance = np.nonzero(np.isfinite(values))
    design = np.hstack([np.eye(len(values))[run], np.eye(values.shape[1])[utterance]])
    fit = np.linalg.lstsq(design, values[run, utterance], rcond=None)[0]
    adjusted = fit[: len(values)] + fit[len(values) :].mean()
    assert filled(values).mean(1) == pytest.approx(adjusted, abs=1e-9)
    kept = np.isfinite(values)
    assert np.array_equal(filled(values)[kept], values[kept])


def test_the_parts_still_add_up_to_the_gap_and_the_note_says_what_was_done(make):
    frame = with_holes(make(utterances=40), 0.05)
    found = analyze(frame, base=BASE, baseline="ref")
    assert found.utterances == 40
    gap = found.kind("gap")["estimate"].item()
    rest = found.kind("unexplained")["estimate"].item()
    assert found.kind("shapley")["estimate"].sum() + rest == pytest.approx(gap, abs=1e-12)
    means = found.cells.set_index("cell")["mean"]
    assert gap == pytest.approx(means["ref"] - means["base"], abs=1e-12)
    assert any("each run's mean is adjusted" in note for note in found.notes)


def test_hard_utterances_that_one_run_lacks_do_not_flatter_it(make):
    """Utterances differ by far more than cells do."""
    frame = make(utterances=60, noise=0.01)
    level = frame.groupby("utterance")["pesq_wb"].mean()
    hard = frame["utterance"].isin(level.nsmallest(12).index) & (frame["cell"] == "b") & (frame["seed"] == 1)
    whole = analyze(frame, base=BASE, baseline="ref").cells.set_index("cell")["mean"]
    holed = frame.assign(pesq_wb=frame["pesq_wb"].mask(hard))
    found = analyze(holed, base=BASE, baseline="ref").cells.set_index("cell")["mean"]
    naive = holed.groupby(["cell", "seed"])["pesq_wb"].mean().groupby("cell").mean()
    assert abs(found["b"] - whole["b"]) < 0.1 * abs(naive["b"] - whole["b"])


def test_without_a_hole_nothing_changes(make):
    frame = make()
    found = analyze(frame, base=BASE, baseline="ref")
    shuffled = analyze(frame.sample(frac=1, random_state=1), base=BASE, baseline="ref")
    assert not any("adjusted" in note for note in found.notes)
    wanted = shuffled.effects.set_index(["kind", "name", "at"])["low"]
    pd.testing.assert_series_equal(
        found.effects.set_index(["kind", "name", "at"])["low"].sort_index(), wanted.sort_index()
    )


def test_an_utterance_that_few_runs_have_is_left_out(make):
    frame = make()
    most = (frame["utterance"] == "u3") & (frame["cell"] != "ref")
    found = analyze(frame[~most], base=BASE, baseline="ref")
    assert found.utterances == 11
    assert any("1 of 12 utterances are left out" in note and "u3" in note for note in found.notes)


def test_an_utterance_that_no_run_has_is_named(make):
    frame = make()
    frame.loc[frame["utterance"] == "u3", "pesq_wb"] = float("nan")
    found = analyze(frame, base=BASE, baseline="ref")
    assert found.utterances == 11
    assert "Utterances without pesq_wb in any run, left out: u3." in found.notes


def test_runs_without_a_common_utterance_are_refused_by_name(make):
    frame = make(factors=("a",), utterances=12)
    apart = frame["utterance"].isin([f"u{i}" for i in range(6)]) == (frame["cell"] == "ref")
    shared = frame[apart & (frame["cell"] != "base") | (frame["cell"] == "base") & apart]
    with pytest.raises(InputError, match="no utterance is scored with pesq_wb both in ref seed 1"):
        analyze(shared, base="a=off", baseline="ref")
