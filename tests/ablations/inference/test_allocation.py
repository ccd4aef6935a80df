import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.ablations.inference.allocation import FIRST, PRIOR, Targets, allocate
from ablate.ablations.inference.engine import estimate
from ablate.models.errors import InputError
from ablate.reports import analyze

BASE = "a=off,b=off"


@pytest.fixture
def look(make):
    """An analysis of five seeds a cell; `wild` cells vary more between trainings."""

    def analysis(wild=(), seeds=FIRST, drop=None, **options):
        frame = make(seeds=seeds, noise=0.03)
        rng = np.random.default_rng(1)
        for cell in wild:
            for seed in range(1, seeds + 1):
                frame.loc[(frame["cell"] == cell) & (frame["seed"] == seed), "pesq_wb"] += rng.normal(0, 0.3)
        return analyze(frame if drop is None else frame[~drop(frame)], base=BASE, baseline="ref", **options)

    return analysis


def test_before_the_first_look_every_cell_gets_its_five_seeds(look):
    found = allocate(look(seeds=3, drop=lambda f: (f["cell"] == "b") & (f["seed"] == 3)), count=99)
    assert found.widest is None
    assert [t.cells for t in found.trainings][:2] == [("base",), ("b",)]
    assert sorted(t.seed for t in found.trainings if t.cells == ("b",)) == [3, 4, 5]
    assert len(found.trainings) == 11
    assert len(allocate(look(seeds=3)).trainings) == 10
    assert {t.seed for t in allocate(look(seeds=3), max_seeds=4).trainings} == {4}
    assert allocate(look(seeds=3), max_seeds=3).widest is not None


def test_the_widest_target_gets_the_training_that_narrows_it_most(look):
    """The wild cell comes first and gets more; not all, as five seeds are drawn towards the mean."""
    found = allocate(look(wild=["ref"]), count=8)
    assert found.widest[0] == "gap"
    wild = [t.seed for t in found.trainings if t.cells == ("ref",)]
    assert found.trainings[0].cells == ("ref",)
    assert wild == list(range(6, 6 + len(wild)))
    assert len(wild) > 4
    assert {t.cells for t in found.trainings} == {("ref",), ("base",)}
    widths = [t.half_width for t in found.trainings]
    assert widths == sorted(widths, reverse=True)
    assert all(t.gain > 0 and t.target for t in found.trainings)


def test_a_dear_training_is_weighed_by_its_hours(look):
    analysis = look()
    cells = analysis.cells["cell"]
    cheap = allocate(analysis, hours={cell: 100.0 if cell == "base" else 1.0 for cell in cells}, count=3)
    assert cheap.widest[0] == "gap"
    assert {t.cells for t in cheap.trainings} == {("ref",)}
    with pytest.raises(InputError, match="hours per run of 'b'"):
        allocate(analysis, hours={cell: 1.0 for cell in cells if cell != "b"})


def test_gain_is_the_fall_of_the_half_width():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3, 6, 40)) * 0.1 + rng.normal(size=(3, 6, 1)) * [[[0.1]], [[0.1]], [[0.1]]]
    weights = np.array([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]])
    found = estimate(scores, weights, [[0], [1], [2]])
    targets = Targets.of(found, weights**2, 0.95)
    target, group, gain = targets.best(np.array([1.0, 1.0, 0.5]), np.ones(3, dtype=bool))
    before = targets.half_widths()
    assert target == before.argmax()
    after = targets.with_seed(group).half_widths()
    assert gain == pytest.approx((before - after)[target] / (0.5 if group == 2 else 1.0))
    trust = 5 / (5 + PRIOR)
    mean = found.one_seed.sum(-1, keepdims=True) / 2
    assert targets.estimates.one_seed == pytest.approx(
        np.where(weights != 0, trust * found.one_seed + (1 - trust) * mean, 0)
    )
    closed = targets.best(np.ones(3), np.zeros(3, dtype=bool))[2]
    assert not closed > 0


def test_a_training_that_cells_share_is_one(make):
    frame = make(seeds=FIRST, noise=0.05)
    frame["training"] = frame["a"].fillna("ref").astype(str) + "-" + frame["seed"].astype(str)
    found = allocate(analyze(frame, base=BASE, baseline="ref"))
    assert {t.cells for t in found.trainings} <= {("base", "b"), ("a", "a+b"), ("ref",)}
    assert {t.seed for t in found.trainings[:1]} == {6}


def test_a_cell_that_keeps_diverging_gets_nothing_more(make):
    frame = make(seeds=6, noise=0.05)
    frame["status"] = np.where((frame["cell"] == "a") & (frame["seed"] > 3), "diverged", "done")
    found = allocate(analyze(frame, base=BASE, baseline="ref"))
    assert found.stopped == ("a",)
    assert found.trainings
    assert all("a" not in t.cells for t in found.trainings)
    frame["status"] = np.where((frame["cell"] == "a") & (frame["seed"] > 5), "diverged", "done")
    few = analyze(frame, base=BASE, baseline="ref")
    assert allocate(few).stopped == ()
    assert allocate(few, failed={"a": [7, 8, 9, 10]}).stopped == ("a",)
    seeds = [t.seed for t in allocate(few, failed={"ref": [7, 9]}).trainings if t.cells == ("ref",)]
    assert seeds[:3] == [8, 10, 11]


def test_what_a_stopped_cell_keeps_wide_gets_nothing_and_the_others_are_served(make):
    frame = make(seeds=10, noise=0.05)
    lost = (frame["cell"] == "ref") & (frame["seed"] > 5)
    frame["status"] = np.where(lost, "diverged", "done")
    frame.loc[frame["cell"] == "ref", "pesq_wb"] += frame["seed"] * 0.1
    found = allocate(analyze(frame, base=BASE, baseline="ref"), width=0.03, count=500)
    assert found.stopped == ("ref",)
    assert found.blocked.keys() == {"gap"}
    assert found.blocked["gap"] > 0.1
    assert found.trainings
    assert {t.target for t in found.trainings} <= {"a", "b"}
    assert found.trainings[-1].half_width <= 0.03
    assert "without more runs of ref, runs of the other cells" in found.limits[-1]


def test_a_target_that_has_all_its_seeds_ends_no_other_ones(make):
    frame = make(seeds=8, noise=0.02)
    frame.loc[frame["cell"] == "ref", "pesq_wb"] += frame["seed"] * 0.05
    frame = frame[frame["cell"].isin(["ref", "base"]) | (frame["seed"] <= 5)]
    analysis = analyze(frame, base=BASE, baseline="ref")
    found = allocate(analysis, width=0.02, count=99, max_seeds=8)
    assert found.widest[0] == "gap"
    assert found.trainings
    assert {t.target for t in found.trainings} <= {"a", "b"}
    assert len({t.half_width for t in found.trainings}) == 1


def test_a_cell_with_one_seed_left_hides_no_other(make):
    frame = make(seeds=6, noise=0.05)
    frame["status"] = np.where((frame["cell"] == "a") & (frame["seed"] > 1), "diverged", "done")
    found = allocate(analyze(frame, base=BASE, baseline="ref"))
    assert found.stopped == ("a",)
    assert found.widest[0] == "gap"
    assert np.isfinite(found.widest[1])


def test_a_width_is_reached_or_said_to_be_out_of_reach(look):
    analysis = look()
    assert allocate(analysis, width=9.0).trainings == ()
    _, now = allocate(analysis).widest
    near = allocate(analysis, width=0.9 * now, count=50).trainings
    assert near[-1].half_width <= 0.9 * now
    assert all(t.half_width > 0.9 * now for t in near[:-1])
    assert allocate(analysis, width=1e-6).floors.keys() <= {"gap", "a", "b"}
    assert allocate(analysis, width=1e-6, max_seeds=6, count=99).trainings
    assert all(t.seed <= 6 for t in allocate(analysis, width=1e-6, max_seeds=6, count=99).trainings)
    with pytest.raises(InputError, match="above zero"):
        allocate(analysis, width=0)


def test_a_level_between_is_a_target_too():
    rng = np.random.default_rng(0)
    spread = {"low": 0.01, "mid": 0.3, "high": 0.01}
    rows = [
        {"cell": level, "a": level, "seed": seed, "utterance": f"u{u}", "pesq_wb": run + rng.normal(0, 0.01)}
        for level, sd in spread.items()
        for seed, run in enumerate(rng.normal(2.5, sd, FIRST), start=1)
        for u in range(6)
    ]
    analysis = analyze(pd.DataFrame(rows), base="a=low", levels={"a": list(spread)}, claims={})
    found = allocate(analysis)
    assert found.widest[0] == "a=mid"
    assert found.trainings[0].cells == ("mid",)


def test_utterances_that_limit_the_width_are_named(make):
    frame = make(seeds=FIRST, noise=0.001)
    odd = (frame["cell"] == "ref") & frame["utterance"].isin(["u0", "u5"])
    frame.loc[odd, "pesq_wb"] += 0.5
    found = allocate(analyze(frame, base=BASE, baseline="ref"), width=0.02)
    assert set(found.floors) == {"gap"}
    assert found.floors["gap"] > 0.02
    assert found.trainings == ()
    assert found.widest[0] == "gap"


@given(
    spread=st.lists(st.floats(0.001, 0.3), min_size=5, max_size=5),
    seed=st.integers(0, 2**16),
    factor=st.floats(0.3, 1.5),
)
@settings(max_examples=25, deadline=None)
@pytest.mark.slow
def test_whatever_the_variances_seeds_stay_nested_and_half_widths_fall(spread, seed, factor, make):
    frame = make(seeds=FIRST, noise=0.01)
    draw = np.random.default_rng(seed)
    for cell, sd in zip(frame["cell"].unique(), spread, strict=True):
        for number in range(1, FIRST + 1):
            frame.loc[(frame["cell"] == cell) & (frame["seed"] == number), "pesq_wb"] += draw.normal(0, sd)
    analysis = analyze(frame, base=BASE, baseline="ref")
    now = allocate(analysis, count=1).widest[1]
    found = allocate(analysis, width=factor * now, count=200, max_seeds=30)
    taken: dict[tuple[str, ...], list[int]] = {}
    for training in found.trainings:
        taken.setdefault(training.cells, []).append(training.seed)
    assert all(seeds == list(range(FIRST + 1, FIRST + 1 + len(seeds))) for seeds in taken.values())
    assert all(max(seeds) <= 30 for seeds in taken.values())
    widths = [t.half_width for t in found.trainings]
    assert widths == sorted(widths, reverse=True)
    assert all(width > factor * now for width in widths[:-1])
    if factor >= 1:
        assert found.trainings == ()
