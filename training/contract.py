"""The contract of every training: the inputs of its program, and the outputs.

A program gets a resolved configuration, a seed, a corpus and a folder. It leaves weights or enhanced files, a
curve and a summary, and is then scored on tests. The built-in trainer is one program, a user's command
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
"""The module that opens a training, by its key in `spec.json`."""


@dataclass(frozen=True)
class Assignment:
    """The inputs of a program.

    Attributes:
        run: the directory, with its `spec.json`.
        before: the state of the run at the start.
        progress: takes the step and the curve during the training.
        should_stop: asked often; once it is true, the program saves what it needs to resume, and ends.
        lock: descriptor of the run's lock, for child processes to inherit.
        cache: folder of the corpora's caches.
        threads: the number of cores it may use.
        processes: that measure; None: the program decides.
        device: "auto", or a torch device.
        accumulation: micro-batches instead of the recipe's, after running out of memory.
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
    """A program opened for a run.

    Attributes:
        pool: measures tests.
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
        """The scores of the finished training on a test, a row for each pair; `keep` gets each pair with its
        enhanced speech."""


def open_program(assignment: Assignment) -> AbstractContextManager[Program]:
    """Open the program of a run, by its `spec.json`."""
    spec = assignment.run.spec
    module = next(module for entry, module in PROGRAMS.items() if entry in spec)
    return import_module(module).opened(assignment)


def micro_batches(spec: Mapping[str, Any], accumulation: int | None) -> tuple[int, int]:
    """The number of micro-batches per step of a run, and its maximum; (1, 1): a step cannot be split."""
    recipe = spec.get("recipe", {"accumulation": 1, "batch_size": 1})
    return accumulation or recipe["accumulation"], recipe["batch_size"]
