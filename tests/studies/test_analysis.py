"""A study's analysis takes everything from its plan."""

import numpy as np
import pandas as pd
import pytest

from ablate.ablations.grid import Grid
from ablate.reports import analyze
from ablate.studies.analysis import analyze_study

GRID = "bidirectional,decoder4x"


def scores_of(plan, utterances=8):
    rng = np.random.default_rng(2)
    rows = []
    for cell in plan.cells:
        for seed in plan.seeds:
            score = 2.5 + 0.3 * (cell.levels.get("bidirectional") == "on") + rng.normal(0, 0.02)
            rows += [
                {
                    "cell": cell.name,
                    **{factor.name: cell.levels.get(factor.name) for factor in plan.factors},
                    "seed": seed,
                    "utterance": f"u{i}",
                    "pesq_wb": score + rng.normal(0, 0.05),
                    "stoi": score / 5 + rng.normal(0, 0.01),
                }
                for i in range(utterances)
            ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("design", ["full", "add-one", "leave-one-out"])
def test_a_whole_study_is_what_its_table_says(make_plan, design):
    cells = Grid.parse(GRID, design=design).cells()
    planned = tuple(cell.model_copy(update={"parameters": 1}) for cell in cells)
    real = {"is_demo": False, "kind": "folder"}
    plan = make_plan(GRID, seeds=(1, 2, 3), design=design, cells=planned, corpus=real)
    frame = scores_of(plan)
    found = analyze_study(plan, frame)
    judged = found.effects["claim_low"].notna()
    assert found.effects.loc[judged, "verdict"].str.startswith("at this size: ").all()
    found.effects["verdict"] = found.effects["verdict"].str.removeprefix("at this size: ")
    guessed = analyze(frame, base="bidirectional=off,decoder4x=off", baseline="baseline", design=design)
    for frame, other in ((found.effects, guessed.effects), (found.cells, guessed.cells)):
        pd.testing.assert_frame_equal(frame, other, check_dtype=False)
    for name in ("aliases", "notes", "not_estimable", "levels", "base_cell", "baseline", "claims"):
        assert getattr(found, name) == getattr(guessed, name)
    assert found.design == (
        "full" if design == "leave-one-out" else design
    )  # of two factors: every combination
    assert found.effects.loc[found.effects["kind"] == "main", "estimate"].max() == pytest.approx(0.3, abs=0.1)


def test_a_study_that_has_hardly_begun_keeps_its_factors(make_plan):
    plan = make_plan(GRID, seeds=(1, 2))
    frame = scores_of(plan)
    started = frame[frame["cell"].isin(["base", "decoder4x"])]
    found = analyze_study(plan, started)
    assert found.factors == ("bidirectional", "decoder4x")
    assert found.baseline is None
    assert ("main", "bidirectional") in {(lost.kind, lost.name) for lost in found.not_estimable}
    assert found.kind("add-one")["name"].tolist() == ["decoder4x"]


def test_claims_and_margin_are_those_of_the_plan_on_its_endpoint_alone(make_plan):
    plan = make_plan(GRID, seeds=(1, 2))
    frame = scores_of(plan)
    assert analyze_study(plan, frame).margin == 0.05
    assert set(analyze_study(plan, frame).claims) == {"bidirectional", "decoder4x"}
    other = analyze_study(plan, frame, metric="stoi")
    assert (other.margin, dict(other.claims)) == (None, {})
    assert analyze_study(plan, frame, margin=0.2).margin == 0.2
