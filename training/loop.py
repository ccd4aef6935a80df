"""The training loop: batch -> step -> maybe validate -> maybe save."""

from __future__ import annotations

import time
from collections.abc import Callable

from .causes import DivergedError, Interrupted
from .checkpoint import Checkpoints
from .progress import Progress
from .selection import Selection
from .trainer import Trainer


def train(
    trainer: Trainer,
    selection: Selection,
    checkpoints: Checkpoints,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> None:
    """Train from where the trainer stands to the last step; `selection.best` is then the selected checkpoint.

    Args:
        trainer: takes the steps.
        selection: validates beside them.
        checkpoints: where all three others' state is written.
        progress: what others see.
        should_stop: asked before each step.

    Raises:
        Interrupted: it was asked to stop, and has saved.
        DivergedError: as `Trainer.train_step`.
        MetricProcessError: a validation could not be measured.
    """
    recipe, steps = trainer.recipe, trainer.steps

    def finish_validation() -> None:
        if line := selection.finish():
            progress.validated(trainer.step, line, selection.best)

    def save() -> None:
        finish_validation()
        checkpoints.save({**trainer.state(), **selection.state(), **progress.state()})

    while True:
        step = trainer.step
        if selection.is_due(step):
            finish_validation()
            selection.start(trainer.network, step, progress.take_means())
        if step == steps:
            break
        if should_stop():
            save()
            progress.at(step)
            raise Interrupted(f"asked to stop after step {step} of {steps}")
        began = time.perf_counter()
        try:
            result = trainer.train_step()
        except DivergedError:
            finish_validation()
            raise
        progress.stepped(trainer.step, result, time.perf_counter() - began)
        if selection.measured():
            finish_validation()
        if trainer.step % recipe.checkpoint_every == 0 or trainer.step == steps:
            save()
        if recipe.keep_every and trainer.step % recipe.keep_every == 0:
            checkpoints.keep(trainer.network.state_dict(), trainer.step)
    save()
    checkpoints.drop_previous()
    progress.at(steps)
