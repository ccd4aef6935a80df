"""What a power cut leaves of a run directory: named, and made good from the rest."""

from __future__ import annotations

import pandas as pd
import pytest

from ablate.training.rundir import RunDir


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path / "runs" / "abc")
    run.write_spec({"seed": 1})
    for attempt in (1, 2):
        run.append_attempt({"attempt": attempt})
    run.append_metrics({"step": 10, "val/pesq_wb": 2.0}, {"step": 20, "val/pesq_wb": 2.5})
    path = run.scores_path("plain")
    path.parent.mkdir()
    pd.DataFrame({"utterance": ["a", "b"], "pesq_wb": [2.0, 3.0]}).to_parquet(path)
    return run


def test_the_state_of_a_run_that_has_ended_is_rebuilt(run, caplog):
    run.write_summary({"seconds_per_step": 0.5, "val_pesq_wb": 2.5})
    (run.path / "state.json").write_text("")
    state = run.state
    assert (state.state, state.attempts, state.step, state.val_pesq_wb) == ("done", 2, 20, 2.5)
    assert f"{run.path / 'state.json'}: the file is empty or truncated" in caplog.text
    assert run.update_state().state == "done"
    assert run.state.seconds_per_step == 0.5


def test_a_run_that_has_not_ended_goes_on(run):
    (run.path / "state.json").write_text('{"state": "done", "atte')
    assert (run.state.state, run.state.step) == ("pending", 20)


@pytest.mark.parametrize("left", [0, 3, 100, -1, -300])
def test_scores_that_were_cut_count_as_none_and_are_kept_aside(run, left, caplog):
    path = run.scores_path("plain")
    whole = path.read_bytes()
    assert run.has_scores("plain")
    assert not run.has_scores("other")
    assert not caplog.text
    path.write_bytes(whole[:left])
    assert not run.has_scores("plain")
    assert f"{path}: the file is empty or truncated" in caplog.text
    run.set_damaged_aside()
    assert [aside.read_bytes() for aside in path.parent.iterdir()] == [whole[:left]]
