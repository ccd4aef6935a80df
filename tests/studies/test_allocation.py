import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ablate.ablations.runspec import run_path
from ablate.models.errors import InputError
from ablate.reports.cli import app
from ablate.studies.allocation import next_trainings
from ablate.studies.plan import save
from ablate.training.rundir import RunDir


@pytest.fixture
def study(make_plan, tmp_path):
    """A study of five seeds a cell on disk, its baseline wilder and twice as fast as the others."""

    def build(seeds=5, scored=True):
        plan = make_plan("bidirectional", seeds=tuple(range(1, seeds + 1)))
        rng = np.random.default_rng(4)
        for cell in plan.cells:
            wild = cell.name == "baseline"
            for seed in plan.seeds if scored else ():
                run = RunDir(run_path(tmp_path, cell.signatures[seed]))
                run.update_state(state="done", step=10, steps=10)
                run.write_summary({"seconds_per_step": 360.0 if wild else 720.0})
                path = run.scores_path(cell.evaluations[seed])
                path.parent.mkdir(parents=True)
                mean = 2.5 + rng.normal(0, 0.3 if wild else 0.02)
                names = [f"u{i}" for i in range(8)]
                table = pd.DataFrame({"utterance": names, "pesq_wb": mean + rng.normal(0, 0.05, 8)})
                table.to_parquet(path)
        save(plan, tmp_path)
        return plan

    return build


def test_the_next_training_is_that_of_the_wild_cell(study, tmp_path):
    plan = study()
    found = next_trainings(plan, tmp_path)
    assert found.widest[0] == "gap"
    first = found.trainings[0]
    assert (first.cells, first.seed) == (("baseline",), 6)
    assert first.hours == pytest.approx(1.0)
    other = next(t for t in next_trainings(plan, tmp_path, count=99).trainings if t.cells == ("base",))
    assert other.hours == pytest.approx(2.0)
    assert found.trainings[0].half_width < found.widest[1]


def test_before_any_score_and_before_the_first_look(study, tmp_path):
    with pytest.raises(InputError, match="no run of 'study' has scores yet"):
        next_trainings(study(scored=False), tmp_path)
    found = next_trainings(study(seeds=4), tmp_path)
    assert found.widest is None
    assert {training.seed for training in found.trainings} == {5}


def test_a_cell_that_waits_is_named_and_a_seed_that_failed_is_not_proposed_again(study, tmp_path):
    plan = study()
    runs = {(cell.name, seed): RunDir(run_path(tmp_path, cell.signatures[seed])) for cell, seed in plan.runs}

    def lose(cell, seed, state):
        runs[cell, seed].scores_path(plan.cell(cell).evaluations[seed]).unlink()
        runs[cell, seed].update_state(state=state, cause="nan" if state == "failed" else None)

    lose("baseline", 3, "failed")
    offered = [t.seed for t in next_trainings(plan, tmp_path).trainings if t.cells == ("baseline",)]
    assert offered[0] == 6
    for seed in (1, 2, 4, 5):
        lose("baseline", seed, "failed")
    found = next_trainings(plan, tmp_path)
    assert found.stopped == ("baseline",)
    assert all(t.cells != ("baseline",) for t in found.trainings)
    for seed in plan.seeds:
        runs["baseline", seed].update_state(state="pending", cause=None)
    with pytest.raises(InputError, match="no run of baseline has scores yet"):
        next_trainings(plan, tmp_path)


def test_the_command_prints_and_gives_json(study, tmp_path):
    study()
    command = ["next", "--root", str(tmp_path)]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0
    assert "the widest interval is gap" in shown.stdout
    found = json.loads(CliRunner().invoke(app, [*command, "--format", "json", "--count", "2"]).stdout)
    assert [training["seed"] for training in found["trainings"]] == [6, 7]
    assert "narrow enough" in CliRunner().invoke(app, [*command, "--width", "9"]).stdout
