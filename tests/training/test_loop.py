"""The loop: what is validated, saved and told when. The collaborators are stand-ins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ablate.training import loop
from ablate.training.failures import DivergedError, Interrupted
from ablate.training.loop import train


class Trainer:
    """Tells of a step when the next one is started."""

    def __init__(self, steps: int, diverges_at: int | None = None, **recipe: int) -> None:
        self.recipe = SimpleNamespace(**{"checkpoint_every": 4, "keep_every": 0, **recipe})
        self.steps, self.step, self.diverges_at = steps, 0, diverges_at
        self.network = SimpleNamespace(state_dict=lambda: {"step": self.step})
        self.under_way: int | None = None

    def start_step(self) -> Any:
        told, self.under_way = self.under_way, self.step + 1
        self.step += 1
        return self.tell(told)

    def finish_step(self) -> Any:
        told, self.under_way = self.under_way, None
        return self.tell(told)

    def tell(self, number: int | None) -> Any:
        if number is not None and number == self.diverges_at:
            raise DivergedError("diverged", {})
        return number and SimpleNamespace(number=number)

    def state(self) -> dict[str, Any]:
        assert self.under_way is None, "saved while a step is under way"
        return {"step": self.step}


class Selection:
    """Validates every third step; the scores are there `delay` questions later."""

    best: Any = None

    def __init__(self, log: list[str], delay: int = 0) -> None:
        self.log, self.delay, self.done = log, delay, set()
        self.pending: list[list[int]] = []

    def is_due(self, step: int) -> bool:
        return step > 0 and step % 3 == 0 and step not in self.done

    def start(self, model: Any, step: int, means: Any) -> None:
        self.pending.append([step, self.delay])
        self.done.add(step)
        self.log.append(f"start {step}")

    def measured(self) -> bool:
        if not self.pending:
            return False
        self.pending[0][1] -= 1
        return self.pending[0][1] < 0

    def finish(self) -> dict[str, Any] | None:
        return {"step": self.pending.pop(0)[0]} if self.pending else None

    def state(self) -> dict[str, Any]:
        return {"best": self.best}


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def go(log):
    progress = SimpleNamespace(
        take_means=dict,
        stepped=lambda step, *_: log.append(f"step {step.number}"),
        validated=lambda step, line, best: log.append(f"validated {line['step']} at {step}"),
        at=lambda step: log.append(f"at {step}"),
        state=dict,
    )
    checkpoints = SimpleNamespace(
        save=lambda state: log.append(f"save {state['step']}"),
        save_best=lambda best: log.append("best"),
        keep=lambda weights, step: log.append(f"keep {step}"),
        drop_previous=lambda: log.append("drop"),
    )

    def go(trainer: Trainer, delay: int = 0, stop_at: int | None = None) -> list[str]:
        train(trainer, Selection(log, delay), checkpoints, progress, lambda: trainer.step == stop_at)
        return log

    return go


def test_the_way_through_a_training(go):
    assert go(Trainer(6, keep_every=5)) == [
        *("step 1", "step 2", "step 3", "start 3", "validated 3 at 4", "best", "step 4", "save 4"),
        *("step 5", "keep 5", "step 6", "save 6", "start 6", "validated 6 at 6", "best", "save 6"),
        *("drop", "at 6"),
    ]


def test_training_and_saves_go_on_while_validations_are_measured(go):
    found = go(Trainer(9, checkpoint_every=5), delay=6)
    assert found.index("start 3") < found.index("save 5") < found.index("start 6")
    assert found.index("start 6") < found.index("validated 3 at 9") < found.index("validated 6 at 9")


def test_a_checkpoint_is_due_by_the_clock_where_steps_are_not_counted(go, monkeypatch):
    assert "save 2" not in go(Trainer(4, checkpoint_every=None))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    assert {"save 1", "save 2", "save 3"} <= set(go(Trainer(4, checkpoint_every=None)))


def test_asked_to_stop_it_saves_and_says_where(go, log):
    with pytest.raises(Interrupted, match="after step 4 of 6"):
        go(Trainer(6, checkpoint_every=100), delay=9, stop_at=4)
    assert log[-3:] == ["step 4", "save 4", "at 4"]


@pytest.mark.parametrize(
    ("diverges_at", "end"),
    [(4, ["start 3", "validated 3 at 5", "best"]), (6, ["step 5", "validated 3 at 6", "best"])],
)
def test_a_divergence_keeps_the_scores_and_writes_no_checkpoint(go, log, diverges_at, end):
    with pytest.raises(DivergedError):
        go(Trainer(7, diverges_at=diverges_at, checkpoint_every=100), delay=9)
    assert log[-3:] == end
    assert not [line for line in log if line.startswith("save")]
