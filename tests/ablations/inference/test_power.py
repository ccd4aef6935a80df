import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from ablate.ablations.design import Design
from ablate.ablations.inference.contrasts import build
from ablate.ablations.inference.power import (
    Variances,
    compare_designs,
    make_plan,
    plan,
    plan_table,
    smallest_effect,
)
from ablate.reports import analyze

ONLY_SEEDS = Variances(seed=0.03, residual=0.0, utterance_cell=0.0)
BINARY = ("off", "on")


def grid_frame(seeds, utterances, spread):
    """Scores of a 2 x 2 grid and its baseline `ref`; trainings vary by `spread`."""
    rng = np.random.default_rng(7)
    rows = []
    for a, b in [*product(BINARY, repeat=2), (None, None)]:
        cell = "ref" if a is None else f"{a}/{b}"
        for seed in range(1, seeds + 1):
            scores = rng.normal(2.8, spread) + rng.normal(0, 0.1, utterances)
            rows += [
                {"cell": cell, "a": a, "b": b, "seed": seed, "utterance": f"u{i}", "pesq_wb": score}
                for i, score in enumerate(scores)
            ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("seeds", "expected"), [(3, 0.138), (5, 0.071), (10, 0.042)])
def test_two_cells_paired(seeds, expected):
    assert smallest_effect(0.03 * math.sqrt(2 / seeds), seeds - 1) == pytest.approx(expected, abs=6e-4)


def test_full_factorial_of_the_power_table():
    table = plan(
        {"a": BINARY, "b": BINARY, "c": "wxyz"}, [3], variances=ONLY_SEEDS, baseline=False
    ).set_index("name")
    assert table.loc["a", "runs"] == 48
    assert table.loc["a", "smallest_effect"] == pytest.approx(0.025, abs=5e-4)
    assert table.loc["a x b", "smallest_effect"] == pytest.approx(0.050, abs=5e-4)


def test_one_factor_at_a_time_needs_more_runs_for_the_same_effect():
    factors = dict.fromkeys("abcde", BINARY)
    add_one = plan(factors, [8], variances=ONLY_SEEDS, design="add-one", baseline=False)
    assert add_one["runs"].unique().tolist() == [48]
    assert add_one["se"].to_numpy() == pytest.approx(0.03 * math.sqrt(2 / 8))
    assert smallest_effect(float(add_one["se"].iloc[0]), 42) == pytest.approx(0.043, abs=5e-4)
    assert add_one["df"].to_numpy() == pytest.approx(14)


def test_smallest_effect_is_found_with_the_stated_power():
    se, df = 0.5, 6.0
    effect = smallest_effect(se, df, power=0.9, alpha=0.1)
    rng = np.random.default_rng(0)
    t = (rng.normal(effect, se, 200_000)) / (se * np.sqrt(rng.chisquare(df, 200_000) / df))
    assert (abs(t) > stats.t.isf(0.05, df)).mean() == pytest.approx(0.9, abs=0.005)
    normal = stats.norm.isf(0.025) + stats.norm.isf(0.2)
    assert smallest_effect(1.0, math.inf) == pytest.approx(normal, abs=1e-4)


@pytest.mark.parametrize("df", [3, 7.5, 40])
def test_power_is_that_of_the_definition(df):
    """A normal estimate over a standard error with a chi-squared variance, integrated over the latter."""
    effect, critical = smallest_effect(1.0, df), stats.t.isf(0.025, df)

    def beyond(chi):
        bound = critical * chi / math.sqrt(df)
        return (stats.norm.sf(bound - effect) + stats.norm.cdf(-bound - effect)) * stats.chi.pdf(chi, df)

    assert integrate.quad(beyond, 0, math.inf)[0] == pytest.approx(0.8, abs=1e-6)


def test_plan_with_the_measured_variances_repeats_the_measured_standard_errors():
    frame = grid_frame(seeds=4, utterances=30, spread=0.1)
    pilot = analyze(frame, base="a=off,b=off", baseline="ref")
    made = make_plan(pilot.levels, Variances.of(pilot))
    order = [c.name for c in made.contrasts.rows if c.kind == "main"]
    keys = [(c.kind, c.name, c.at) for c in made.contrasts.rows]
    planned = dict(zip(keys, made.unit.at_seeds(4)[0], strict=True))
    for kind, name in [("gap", "gap"), *(("main", name) for name in order)]:
        measured = pilot.kind(kind).set_index("name").loc[name, "se"]
        assert planned[kind, name, ""] == pytest.approx(measured, rel=0.15)


def test_a_plan_from_a_pilot_uses_the_cells_own_variances():
    frame = grid_frame(seeds=6, utterances=20, spread=0.01)
    wild = frame["cell"] == "ref"
    frame.loc[wild, "pesq_wb"] += frame.loc[wild, "seed"] * 0.2
    pilot = analyze(frame, base="a=off,b=off", baseline="ref")
    variances = Variances.of(pilot)
    assert variances.by_cell["baseline"] > 10 * variances.by_cell["a=off,b=off"]
    table = plan(pilot.levels, [6], pilot=pilot).set_index("name")
    assert table.loc["gap", "smallest_effect"] > 5 * table.loc["a", "smallest_effect"]


def test_evaluation_only_factor_needs_no_trainings_and_no_seed_noise():
    factors = {"a": BINARY, "pcs": BINARY}
    table = plan(factors, [5], variances=ONLY_SEEDS, evaluation_only={"pcs"}).set_index("name")
    assert table.loc["a", "runs"] == 5 * 3
    assert table.loc["pcs", "se"] == pytest.approx(0)
    assert table.loc["a", "se"] == pytest.approx(0.03 * math.sqrt(2 / 5))


def test_one_seed_detects_nothing_and_the_wide_table_keeps_the_rows():
    wide = plan_table(plan({"a": BINARY, "b": BINARY}, range(1, 4), hours=0.5))
    assert wide["seeds"].tolist() == [1, 2, 3]
    assert wide["hours"].tolist() == [2.5, 5.0, 7.5]
    assert list(wide.columns) == ["seeds", "runs", "hours", "gap", "a", "b", "a x b"]
    assert wide.loc[0, ["gap", "a", "b", "a x b"]].isna().all()
    assert wide["a"].iloc[1] > wide["a"].iloc[2]


def test_without_hours_the_table_is_still_there():
    assert len(plan_table(plan({"a": BINARY}, [2, 3]))) == 2


def test_the_fraction_is_the_cheapest_and_each_design_reaches_the_effect():
    table = compare_designs(dict.fromkeys("abcde", BINARY), 0.04, hours=2.0)
    assert set(table["design"]) == {"full", "fractional", "add-one", "leave-one-out"}
    assert table["design"].iloc[0] == "fractional"
    assert table["cheapest"].tolist() == [True, False, False, False]
    assert (table["smallest_effect"] <= 0.04).all()
    assert (table["hours"] == table["runs"] * 2).all()
    assert table.set_index("design").loc["full", "interactions"]
    assert (
        compare_designs({"a": BINARY, "c": "xyz"}, 0.04)["design"]
        .isin(["full", "add-one", "leave-one-out"])
        .all()
    )
    with pytest.raises(ValueError, match="above zero"):
        compare_designs({"a": BINARY}, 0)


def test_one_seed_is_no_pilot():
    single = analyze(grid_frame(seeds=1, utterances=20, spread=0.05), base="a=off,b=off", baseline="ref")
    with pytest.raises(ValueError, match="no cell of the pilot has two seeds"):
        Variances.of(single)


def test_planned_contrasts_are_those_of_the_report():
    made = make_plan({"a": BINARY, "b": BINARY}, ONLY_SEEDS)
    cells = {"x": {"a": "off", "b": "off"}, "y": {"a": "on", "b": "off"}}
    cells |= {"z": {"a": "off", "b": "on"}, "w": {"a": "on", "b": "on"}, "ref": {}}
    report = build(Design.of({"a": BINARY, "b": BINARY}), cells, baseline="ref", simple=())
    assert [(c.kind, c.name, c.at) for c in made.contrasts.rows] == [
        (c.kind, c.name, c.at) for c in report.rows
    ]


def test_a_pilots_variances_hold_in_any_order_of_factors():
    frame = grid_frame(seeds=6, utterances=20, spread=0.01)
    wild = (frame["a"] == "on") & (frame["b"] == "off")
    frame.loc[wild, "pesq_wb"] += frame.loc[wild, "seed"] * 0.2
    pilot = analyze(frame, base="a=off,b=off", baseline="ref")
    forward = plan({"a": BINARY, "b": BINARY}, [6], pilot=pilot).set_index("name")
    turned = plan({"b": BINARY, "a": BINARY}, [6], pilot=pilot).set_index("name")
    for name in ("gap", "a", "b"):
        assert turned.loc[name, "se"] == pytest.approx(forward.loc[name, "se"])
