"""The contract of every training: what a run gives to its program, and what the program gives back.

A program gets a resolved configuration, a seed, a corpus and a folder. It leaves weights or enhanced files,
a curve and a summary, and is then scored on tests. The built-in trainer is one such program, a user's command
another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import EvaluationJob
from .metrics import MetricPool
from .progress import Progress
from .rundir import RunDir, RunState

if TYPE_CHECKING:
    import pandas as pd

    from .audio_samples import Keep
    from .data.corpus import Pair

PROGRAMS = {"model": "ablate.training.pipeline", "train": "ablate.training.train_command.train"}
"""By the entry of `spec.json` that is theirs, the modules that open a training."""


@dataclass(frozen=True)
class Assignment:
    """What a run gives to its program.

    Attributes:
        run: the directory, with its `spec.json`.
        before: the state in which the run was found.
        progress: takes the step and the curve while the training runs.
        should_stop: asked often; once it is true, the program saves what it needs to go on, and ends.
        lock: descriptor of the run's lock, for child processes to inherit.
        cache: folder of the corpora's caches.
        threads: the cores that it may use.
        processes: that measure; none: as the program sees fit.
        device: "auto", or a torch device.
        accumulation: micro-batches in place of the recipe's, after running out of memory.
    """

    run: RunDir
    before: RunState
    progress: Progress
    should_stop: Callable[[], bool]
    lock: int
    cache: Path
    threads: int
    processes: int | None = None
    device: str = "auto"
    accumulation: int | None = None


class Program(ABC):
    """A program that was opened for a run.

    Attributes:
        pool: where tests are measured.
        has_audio: whether there is enhanced speech to keep.
    """

    pool: MetricPool
    has_audio: bool = True

    @abstractmethod
    def train(self) -> None:
        """Train to the end, or from where it stopped, and write the summary.

        Raises:
            Interrupted: it was asked to stop.
            DivergedError: a loss, gradient, weight or output is not finite.
            RunFailure: it failed; with the cause.
        """

    @abstractmethod
    def pairs(self, job: EvaluationJob) -> Sequence[Pair]:
        """The files of a test."""

    @abstractmethod
    def scores(self, job: EvaluationJob, pairs: Sequence[Pair], keep: Keep | None) -> pd.DataFrame:
        """The scores of the finished training on a test, a row for each pair.

        Args:
            keep: is given each pair with its enhanced speech.
        """


def open_program(assignment: Assignment) -> AbstractContextManager[Program]:
    """The program of a run, opened as its `spec.json` says."""
    spec = assignment.run.spec
    module = next(module for entry, module in PROGRAMS.items() if entry in spec)
    return import_module(module).opened(assignment)


def micro_batches(spec: Mapping[str, Any], accumulation: int | None) -> tuple[int, int]:
    """Into how many micro-batches a step of a run is cut, and into how many it can be; (1, 1): not at all."""
    recipe = spec.get("recipe", {"accumulation": 1, "batch_size": 1})
    return accumulation or recipe["accumulation"], recipe["batch_size"]
