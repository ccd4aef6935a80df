"""What others see of a training, and the means over its steps."""

from __future__ import annotations

import pytest

from ablate.training.progress import Progress, Window
from ablate.training.rundir import RunDir
from ablate.training.trainer import Step


def step(number: int, loss: float, judged: float | None = None, dropped: int = 0) -> Step:
    return Step(number, loss, 2 * loss, 1e-3, judged, dropped)


@pytest.fixture
def progress(tmp_path) -> Progress:
    return Progress(RunDir(tmp_path / "run"))


def test_means_are_over_the_steps_since_they_were_taken(progress):
    progress.stepped(step(1, 1.0), 0.5)
    progress.stepped(step(2, 3.0, judged=0.2), 1.5)
    assert progress.take_means() == {
        "train/loss": 2.0,
        "train/grad_norm": 4.0,
        "train/learning_rate": 1e-3,
        "train/discriminator_loss": 0.2,
        "seconds_per_step": 1.0,
    }
    progress.stepped(step(3, 5.0), 1.0)
    assert progress.take_means()["train/loss"] == 5.0


def test_sums_go_on_after_a_resume_and_times_do_not(progress, tmp_path):
    progress.stepped(step(1, 1.0, dropped=2), 100.0)
    resumed = Progress(RunDir(tmp_path / "other"))
    resumed.restore(progress.state())
    resumed.stepped(step(2, 3.0, dropped=1), 1.0)
    means = resumed.take_means()
    assert (means["train/loss"], means["seconds_per_step"]) == (2.0, 1.0)
    assert resumed.dropped_clips == 3
    assert resumed.seconds_per_step() == 1.0


def test_a_window_of_another_version_is_read_as_far_as_it_is_known(progress):
    old = {"steps": 2, "loss": 1.0, "grad_norm": 1.0, "judged": 0, "judged_loss": 0.0, "more": 7}
    progress.restore({"window": old, "dropped_pesq_clips": 0})
    assert progress.window == Window(steps=2, loss=1.0, grad_norm=1.0)


def test_who_asks_is_told_every_state(tmp_path):
    told: list = []
    progress = Progress(RunDir(tmp_path / "run"), told.append)
    progress.update(state="running", steps=4)
    progress.stepped(step(1, 1.0), 0.25)
    progress.at(1)
    progress.validated(1, {"step": 1, "val/pesq_wb": None}, None)
    assert [(state.step, state.seconds_per_step) for state in told] == [(0, None), (1, 0.25), (1, 0.25)]
    assert progress.run.state == told[-1]
    assert progress.run.metrics() == [{"step": 1, "val/pesq_wb": None}]
