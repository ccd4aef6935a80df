"""The training loop: batch -> step -> maybe validate -> maybe save."""

from __future__ import annotations

import time
from collections.abc import Callable

from .checkpoint import Checkpoints
from .failures import DivergedError, Interrupted
from .progress import Progress
from .selection import Selection
from .trainer import Step, Trainer

CHECKPOINT_SECONDS = 60.0
"""Between two writes of the latest checkpoint, if the recipe does not count steps."""


def train(
    trainer: Trainer,
    selection: Selection,
    checkpoints: Checkpoints,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> None:
    """Train from the trainer's current step to the last; `selection.best` is then the selected checkpoint.

    Raises:
        Interrupted: it was asked to stop, and has saved.
        DivergedError: as `Trainer.train_step`.
        MetricProcessError: a validation could not be measured.
    """
    recipe, steps = trainer.recipe, trainer.steps
    clock = Stopwatch()
    saved = time.monotonic()

    def tell(step: Step | None) -> None:
        if step is not None:
            progress.stepped(step, clock.take())

    def settle() -> None:
        with clock:
            step = trainer.finish_step()
        tell(step)

    def finish_validations(*, all_of_them: bool) -> None:
        while (all_of_them or selection.measured()) and (line := selection.finish()):
            progress.validated(trainer.step, line, selection.best)
            checkpoints.save_best(selection.best)

    def save() -> None:
        nonlocal saved
        settle()
        checkpoints.save({**trainer.state(), **selection.state(), **progress.state()})
        saved = time.monotonic()

    def is_due() -> bool:
        every = recipe.checkpoint_every
        return trainer.step % every == 0 if every else time.monotonic() - saved >= CHECKPOINT_SECONDS

    try:
        while True:
            step = trainer.step
            if selection.is_due(step):
                settle()
                selection.start(trainer.network, step, progress.take_means())
            if step == steps:
                break
            if should_stop():
                save()
                progress.at(step)
                raise Interrupted(f"asked to stop after step {step} of {steps}")
            with clock:
                before = trainer.start_step()
            tell(before)
            finish_validations(all_of_them=False)
            if is_due() or trainer.step == steps:
                save()
            if recipe.keep_every and trainer.step % recipe.keep_every == 0:
                settle()
                checkpoints.keep(trainer.network.state_dict(), trainer.step)
    except DivergedError:
        finish_validations(all_of_them=True)
        raise
    finish_validations(all_of_them=True)
    save()
    checkpoints.drop_previous()
    progress.at(steps)


class Stopwatch:
    """Adds up the seconds spent inside its block."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def take(self) -> float:
        """The seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds += time.perf_counter() - self._began
