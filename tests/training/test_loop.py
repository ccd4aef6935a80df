"""The loop: what is validated, saved and told when. The collaborators are stand-ins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ablate.training.causes import DivergedError, Interrupted
from ablate.training.loop import train


class Trainer:
    def __init__(self, steps: int, diverges_at: int | None = None, **recipe: int) -> None:
        self.recipe = SimpleNamespace(**{"checkpoint_every": 4, "keep_every": 0, **recipe})
        self.steps, self.step, self.diverges_at = steps, 0, diverges_at
        self.network = SimpleNamespace(state_dict=lambda: {"step": self.step})

    def train_step(self) -> Any:
        if self.step + 1 == self.diverges_at:
            raise DivergedError("diverged", {})
        self.step += 1
        return SimpleNamespace()

    def state(self) -> dict[str, Any]:
        return {"step": self.step}


class Selection:
    """Validates every third step; the scores are there `delay` questions later."""

    best: Any = None

    def __init__(self, log: list[str], delay: int = 0) -> None:
        self.log, self.delay, self.pending, self.done = log, delay, None, set()

    def is_due(self, step: int) -> bool:
        return step > 0 and step % 3 == 0 and step not in self.done

    def start(self, model: Any, step: int, means: Any) -> None:
        assert self.pending is None, "two validations at once"
        self.pending, self.left = step, self.delay
        self.done.add(step)
        self.log.append(f"start {step}")

    def measured(self) -> bool:
        self.left = getattr(self, "left", 0) - 1
        return self.pending is not None and self.left < 0

    def finish(self) -> dict[str, Any] | None:
        if self.pending is None:
            return None
        step, self.pending = self.pending, None
        return {"step": step}

    def state(self) -> dict[str, Any]:
        assert self.pending is None, "saved while a validation is under way"
        return {"best": self.best}


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def go(log):
    progress = SimpleNamespace(
        take_means=dict,
        stepped=lambda step, *_: log.append(f"step {step}"),
        validated=lambda step, line, best: log.append(f"validated {line['step']} at {step}"),
        at=lambda step: log.append(f"at {step}"),
        state=dict,
    )
    checkpoints = SimpleNamespace(
        save=lambda state: log.append(f"save {state['step']}"),
        keep=lambda weights, step: log.append(f"keep {step}"),
        drop_previous=lambda: log.append("drop"),
    )

    def go(trainer: Trainer, delay: int = 0, stop_at: int | None = None) -> list[str]:
        train(trainer, Selection(log, delay), checkpoints, progress, lambda: trainer.step == stop_at)
        return log

    return go


def test_the_way_through_a_training(go):
    assert go(Trainer(6, keep_every=5)) == [
        *(
            "step 1",
            "step 2",
            "step 3",
            "start 3",
            "step 4",
            "validated 3 at 4",
            "save 4",
            "step 5",
            "keep 5",
        ),
        *("step 6", "save 6", "start 6", "validated 6 at 6", "save 6", "drop", "at 6"),
    ]


def test_training_goes_on_while_a_validation_is_measured(go):
    found = go(Trainer(7, checkpoint_every=100), delay=2)
    assert found.index("start 3") < found.index("step 5") < found.index("validated 3 at 6")


def test_a_save_waits_for_the_validation_under_way(go):
    found = go(Trainer(5), delay=9)
    assert found.index("validated 3 at 4") == found.index("save 4") - 1


def test_asked_to_stop_it_saves_and_says_where(go, log):
    with pytest.raises(Interrupted, match="after step 4 of 6"):
        go(Trainer(6, checkpoint_every=100), delay=9, stop_at=4)
    assert log[-3:] == ["validated 3 at 4", "save 4", "at 4"]


def test_a_divergence_keeps_the_scores_and_writes_no_checkpoint(go, log):
    with pytest.raises(DivergedError):
        go(Trainer(6, diverges_at=4, checkpoint_every=100), delay=9)
    assert log[-2:] == ["start 3", "validated 3 at 3"]
