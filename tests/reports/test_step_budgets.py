from __future__ import annotations

import io
import json
import re

import numpy as np
import pandas as pd
import pytest

from ablate.reports import caveats
from ablate.reports.build import report_of, report_of_study
from ablate.reports.cost import compute
from ablate.reports.figures import draw_one
from ablate.reports.renderers import write
from ablate.reports.sources import scores_from_mlflow, scores_from_study
from ablate.reports.tables import lengths_table
from ablate.studies.plan import load, run_dirs
from ablate.studies.tracking import mirror

FACTORS = ("bidirectional", "decoder4x")


def train_at(root, length=0.5, left_out=()):
    """At another length bidirectional is worth 0.3 less, everything 0.2 less."""
    plan = load(root)
    rng = np.random.default_rng(3)
    other = plan.at(length)
    steps = round(60 * length)
    for (cell, seed), run in run_dirs(other, root).items():
        if (cell, seed) in left_out:
            continue
        long = run_dirs(plan, root)[cell, seed]
        scores = pd.read_parquet(long.scores_path(plan.cell(cell).evaluations[seed]))
        scores["pesq_wb"] -= 0.2 + 0.3 * ("bidirectional=on" in cell) + rng.normal(0, 0.02)
        path = run.scores_path(other.cell(cell).evaluations[seed])
        run.write_spec({"training_signature": run.signature, "seed": seed})
        path.parent.mkdir()
        scores.to_parquet(path)
        run.write_summary(long.summary)
        run.update_state(state="done", step=steps, steps=steps, started=0.0, finished=30.0)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_study):
    root = tmp_path_factory.mktemp("lengths")
    return train_at(make_study(root, factors=FACTORS, lengths=(0.5,)))


@pytest.fixture(scope="module")
def found(root):
    return report_of_study(root)


def test_effects_at_each_length_and_their_change(found):
    rows = {(row.name, row.step_fraction): row for row in found.by_step_budget}
    assert {length for _, length in rows} == {0.5, 1.0}
    own = {row.name: row for row in found.factors}
    for name in FACTORS:
        data = own[name].data
        row = rows[name, 1.0]
        assert (row.estimate, row.low, row.high) == pytest.approx(
            (data["estimate"], data["low"], data["high"])
        )
        assert (row.steps, rows[name, 0.5].steps) == ((60,), (30,))
        assert row.utterances == 24
        assert rows[name, 0.5].change == pytest.approx(row.estimate - rows[name, 0.5].estimate)
    assert rows["bidirectional", 0.5].change == pytest.approx(0.3, abs=0.05)
    assert rows["bidirectional", 0.5].differs
    assert not rows["decoder4x", 0.5].differs


def test_the_effects_at_another_length_are_those_of_its_trainings_alone(found, root):
    from ablate.studies.analysis import analyze_study
    from ablate.studies.scores import scores_of_runs

    half = load(root).at(0.5)
    alone = analyze_study(half, scores_of_runs(half, root)[0]).credit.set_index("name")
    for row in found.by_step_budget:
        if row.step_fraction == 0.5 and row.name in FACTORS:
            expected = alone.loc[row.name, ["estimate", "low", "high"]].tolist()
            assert [row.estimate, row.low, row.high] == pytest.approx(expected)


def test_the_forms_have_the_table_the_words_and_the_figure(found):
    for format in ("table", "md", "latex", "html"):
        out = io.StringIO()
        write(found, format, out)
        said = re.sub(r"\s+", " ", out.getvalue())
        assert "Effects by step budget" in said
        assert "0.5: 30 steps" in said
    out = io.StringIO()
    write(found, "json", out)
    assert {row["step_fraction"] for row in json.loads(out.getvalue())["by_step_budget"]} == {0.5, 1.0}
    lines = caveats.notes(found)
    (changes,) = [line for line in lines if "bidirectional is" in line and "a change of" in line]
    assert re.search(r"after 30 steps and \+\d\.\d+ after 60 steps, a change of \+0\.3", changes)
    assert "also an effect on learning speed" in changes
    assert any("not part of the Holm family" in line for line in lines)
    figure = draw_one(found, "lengths")
    assert "bidirectional after 30 steps" in figure.alternative
    assert "<svg" in figure.svg()
    assert lengths_table(found).head[1:3] == ["0.5: 30 steps", "1: 60 steps"]


def test_a_change_is_the_longer_training_less_the_shorter(tmp_path, make_study):
    found = report_of_study(train_at(make_study(tmp_path, factors=FACTORS, lengths=(2.0,)), 2.0))
    rows = {(row.name, row.step_fraction): row for row in found.by_step_budget}
    own, longer = rows["bidirectional", 1.0], rows["bidirectional", 2.0]
    assert longer.change == pytest.approx(longer.estimate - own.estimate)
    assert longer.change == pytest.approx(-0.3, abs=0.05)
    assert lengths_table(found).head[-1] == "2 less 1"
    (line,) = [line for line in caveats.notes(found) if "a change of" in line and "bidirectional" in line]
    assert line.index("after 60 steps") < line.index("after 120 steps")


def test_compute_counts_the_trainings_of_all_lengths(found):
    assert compute(found.info).trainings == 30


def test_a_length_that_lacks_a_cell_has_what_can_be_said(tmp_path, make_study):
    gone = [("bidirectional=on,decoder4x=off", seed) for seed in (1, 2, 3)]
    root = train_at(make_study(tmp_path, factors=FACTORS, lengths=(0.5,)), left_out=gone)
    rows = {(row.name, row.step_fraction) for row in report_of_study(root).by_step_budget}
    assert ("gap", 0.5) in rows
    assert ("bidirectional", 0.5) not in rows
    assert ("bidirectional", 1.0) in rows
    problems = caveats.run_problems(report_of_study(root))
    assert [f"bidirectional=on,decoder4x=off, seed {seed} at 0.5: pending" for seed in (1, 2, 3)] == problems


def test_a_length_that_has_hardly_begun_has_no_table_yet(tmp_path, make_study):
    root = make_study(tmp_path, factors=("bidirectional",), utterances=4, lengths=(0.5,))
    train_at(root, left_out=[(cell, s) for cell in ("bidirectional=on", "baseline") for s in (1, 2, 3)])
    assert report_of_study(root).by_step_budget == []


def test_one_length_has_no_table(report):
    assert report.by_step_budget == []
    assert lengths_table(report) is None
    assert draw_one(report, "lengths") is None


@pytest.mark.slow
def test_lengths_come_back_from_an_mlflow_store(root, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert mirror(root, "planted", uri).complete
    scores, info = scores_from_study(root)
    again, other = scores_from_mlflow(uri, "planted")
    pd.testing.assert_frame_equal(again, scores)
    pd.testing.assert_frame_equal(other.step_fractions[0.5].scores, info.step_fractions[0.5].scores)
    assert len(report_of(again, other).by_step_budget) == len(report_of(scores, info).by_step_budget)
    assert compute(other) == compute(info)
