"""The interface of a launcher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate.models.config import Frozen
from ablate.training.config import EvaluationJob
from ablate.training.contract import micro_batches
from ablate.training.rundir import EvaluationState, RunDir

from ..compute import Compute
from ..retry_policy import Exit

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""Default environment of workers: glibc keeps memory that a training step frees, so the next step need not
fault it in again, and torch uses huge pages. A step on the CPU takes up to a third less;
`benchmarks/training_step.py` measures it."""


@dataclass
class Job:
    """A run in the queue: the worker's input, and the driver's notes.

    Attributes:
        run: the run directory, with `spec.json`.
        evaluations: signature -> evaluation.
        accumulation: number of micro-batches per step after memory ran out, instead of the recipe's.
        document: the content of `spec.json`.
        trials: (book, trial) of each cell x seed that shares the run.
        retries: number of lost attempts under this driver.
        due: earliest time to start it.
        waits: whether another process held the run after its worker had ended.
        metric: the endpoint, if a training command trains the run.
    """

    run: RunDir
    cache: Path
    evaluations: dict[str, EvaluationJob] = field(default_factory=dict)
    accumulation: int | None = None
    document: dict[str, Any] = field(default_factory=dict)
    trials: list[tuple[Any, Any]] = field(default_factory=list)
    retries: int = 0
    due: float = 0.0
    waits: bool = False
    metric: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The worker's input as JSON; `Job.of` reads it."""
        evaluations = [each.model_dump(mode="json") for each in self.evaluations.values()]
        return {
            "run": str(self.run.path),
            "cache": str(self.cache),
            "evaluations": evaluations,
            "accumulation": self.accumulation,
        }

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Job:
        found = [EvaluationJob.model_validate(each) for each in given["evaluations"]]
        return cls(
            RunDir(given["run"]), Path(given["cache"]), {e.signature: e for e in found}, given["accumulation"]
        )

    @property
    def divisible(self) -> bool:
        """Whether a step can be cut into more micro-batches."""
        now, most = micro_batches(self.document, self.accumulation)
        return now < most

    @property
    def name(self) -> str:
        return ", ".join(trial.label for _, trial in self.trials)

    @property
    def scores(self) -> Path:
        """The file of the scores on the first test set."""
        return self.run.scores_path(next(iter(self.evaluations)))

    @property
    def scored(self) -> bool:
        return all(map(self.run.has_scores, self.evaluations))

    @property
    def unscorable(self) -> EvaluationState | None:
        """The failed scoring of a finished training, if there is one."""
        return self.run.failed_evaluation(self.evaluations)


class Ended(Frozen):
    """The end of a job on its slot; `studies.retry_policy` decides what to do next."""

    run: Path
    exit: Exit = "finished"
    message: str | None = None


class Launcher(ABC):
    """Runs jobs on slots and reports their ends. Used by one driver, from one thread.

    Attributes:
        slots: maximum number of jobs at once.
        here: whether jobs run on this machine.
    """

    slots: int
    here = True

    @classmethod
    def open(cls, folder: Path, compute: Compute) -> Launcher:
        """The launcher of a study, which may keep logs and scripts in the study's `folder`.

        Raises:
            InputError: something that it needs is missing or not installed.
        """
        return cls()

    @property
    @abstractmethod
    def free(self) -> int:
        """Number of slots without a job."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Start a job on a free slot.

        Raises:
            RuntimeError: no slot is free.
        """

    @abstractmethod
    def wait(self, timeout: float) -> Iterable[Ended]:
        """The jobs that ended, after at most `timeout` seconds."""

    @abstractmethod
    def stop(self) -> None:
        """Cancel waiting jobs, and ask running ones to write a checkpoint and end; `wait` reports them."""

    @abstractmethod
    def close(self) -> None:
        """End everything at once."""

    def told(self) -> list[str]:
        """New messages for the user."""
        return []

    def adopt(self, note: dict[str, str], job: Job) -> bool:
        """Take over a job that a dead driver recorded in `job.json`. Returns False if the job has ended."""
        return False
