"""The visible progress of a training: `state.json`, `metrics.jsonl`, and means over its steps."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from .rundir import RunDir, RunState

if TYPE_CHECKING:
    from .trainer import Step

STATE_SECONDS = 1.0
"""Least time between two writes of `state.json` in training, and of a command's seconds."""

logger = logging.getLogger(__name__)


@dataclass
class Window:
    """Sums over the steps since the last validation; `seconds` only over the `timed` ones of this process."""

    steps: int = 0
    loss: float = 0.0
    grad_norm: float = 0.0
    judged: int = 0
    judged_loss: float = 0.0
    learning_rate: float = 0.0
    seconds: float = 0.0
    timed: int = 0

    def add(self, step: Step, seconds: float) -> None:
        self.steps += 1
        self.loss += step.loss
        self.grad_norm += step.grad_norm
        self.learning_rate = step.learning_rate
        if step.discriminator_loss is not None:
            self.judged += 1
            self.judged_loss += step.discriminator_loss
        self.seconds += seconds
        self.timed += 1

    def means(self) -> dict[str, float]:
        """For a line of `metrics.jsonl`."""
        means = {
            "train/loss": self.loss / self.steps,
            "train/grad_norm": self.grad_norm / self.steps,
            "train/learning_rate": self.learning_rate,
        }
        if self.judged:
            means["train/discriminator_loss"] = self.judged_loss / self.judged
        if self.timed:
            means["seconds_per_step"] = self.seconds / self.timed
        return means


class Progress:
    """Writes a run's progress into its directory, and passes every written state to `report`."""

    def __init__(self, run: RunDir, report: Callable[[RunState], None] | None = None) -> None:
        self.run = run
        self.report = report
        self.window = Window()
        self.dropped_clips = 0
        self._durations: list[float] = []
        self._updated = 0.0

    def update(self, **changes: Any) -> RunState:
        """Write the state with some fields replaced."""
        self._updated = time.monotonic()
        state = self.run.update_state(**changes)
        if self.report is not None:
            self.report(state)
        return state

    def stepped(self, step: Step, seconds: float) -> None:
        """Count a training step; the state is written about once a second."""
        self._durations.append(seconds)
        self.window.add(step, seconds)
        self.dropped_clips += step.dropped_clips
        if time.monotonic() - self._updated >= STATE_SECONDS:
            self.at(step.number)

    def at(self, step: int) -> None:
        """Write the step, and its recent duration."""
        recent = self._durations[-20:]
        self.update(step=step, **({"seconds_per_step": statistics.median(recent)} if recent else {}))

    def take_means(self) -> dict[str, float]:
        """The means since the last call."""
        means, self.window = self.window.means(), Window()
        return means

    def validated(self, step: int, line: Mapping[str, Any], best: Mapping[str, Any] | None) -> None:
        """Write the line of a validation that ended at `step`."""
        self.run.append_metrics(line)
        logger.info("%s", " ".join(f"{k}={v:.5g}" if v is not None else f"{k}=-" for k, v in line.items()))
        self.update(step=step, val_pesq_wb=best and best["val_pesq_wb"])

    def seconds_per_step(self) -> float | None:
        """The median over the steps of this process; if there are none, that of the state."""
        return statistics.median(self._durations) if self._durations else self.run.state.seconds_per_step

    def state(self) -> dict[str, Any]:
        """Its part of a checkpoint."""
        sums = {name: x for name, x in asdict(self.window).items() if name not in ("seconds", "timed")}
        return {"window": sums, "dropped_pesq_clips": self.dropped_clips}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Undo `state`."""
        known = {field.name for field in fields(Window)}
        self.window = Window(**{name: value for name, value in state["window"].items() if name in known})
        self.dropped_clips = state["dropped_pesq_clips"]
