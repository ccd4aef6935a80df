from __future__ import annotations

import pytest

from ablate.studies.lease import StudyHeldError
from ablate.studies.plan import save
from ablate.studies.rerun import set_aside
from ablate.training.rundir import RunDir


def write_runs(plan, root):
    runs = {s: RunDir(root / "runs" / s) for cell in plan.cells for s in cell.signatures.values()}
    for run in runs.values():
        run.write_spec({"name": run.signature})
    return runs


def test_the_runs_of_a_cell_are_kept_elsewhere(make_plan, tmp_path):
    plan = make_plan("bidirectional,pcs", (1, 2))
    runs = write_runs(plan, tmp_path)
    cells = [plan.cell("base"), plan.cell("pcs")]
    lines = set_aside(plan, cells, tmp_path)
    assert len(lines) == 2, "cells that share their trainings set each aside once"
    assert not any(runs[s].path.exists() for s in plan.cell("base").signatures.values())
    aside = sorted(path.name.partition("-")[0] for path in (tmp_path / "replaced").iterdir())
    assert aside == sorted(plan.cell("base").signatures.values())
    assert set_aside(plan, cells, tmp_path) == []


def test_other_lengths_are_set_aside_too(make_plan, tmp_path):
    plan = make_plan("bidirectional", (1,), lengths=(0.5,))
    half = plan.at(0.5)
    write_runs(plan, tmp_path)
    write_runs(half, tmp_path)
    save(plan.model_copy(update={"name": "other"}), tmp_path)
    lines = set_aside(plan, [plan.cell("base")], tmp_path)
    assert [line.partition(":")[0] for line in lines] == ["base seed 1", "base seed 1 at 0.5"]
    assert "study other (base seed 1 at 0.5)" in lines[1]


def test_a_run_that_is_being_written_stays_and_so_do_all_others(make_plan, tmp_path):
    plan = make_plan("bidirectional", (1, 2))
    runs = write_runs(plan, tmp_path)
    with (
        runs[plan.cell("base").signatures[2]].lock(),
        pytest.raises(StudyHeldError, match="base seed 2 cannot be moved aside: run"),
    ):
        set_aside(plan, [plan.cell("base")], tmp_path)
    assert all(run.path.exists() for run in runs.values())


def test_who_else_has_a_run_is_said(make_plan, tmp_path):
    plan = make_plan("bidirectional", (1,))
    for name in ("study", "other", "third"):
        save(plan.model_copy(update={"name": name}), tmp_path)
    save(make_plan("decoder4x", (2,), name="unrelated"), tmp_path)
    write_runs(plan, tmp_path)
    (line,) = set_aside(plan.model_copy(update={"name": "study"}), [plan.cell("base")], tmp_path)
    assert "study other (base seed 1)" in line
    assert "study third (base seed 1)" in line
    assert "unrelated" not in line
    assert "study study" not in line
