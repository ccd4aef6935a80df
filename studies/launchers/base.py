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
"""What workers start with, unless it is set: glibc keeps what a training step frees instead of giving it back
to the system and faulting it in again at the next step, and torch asks for huge pages. A step on the CPU
takes up to a third less; `benchmarks/training_step.py` measures it."""


@dataclass
class Job:
    """A run in the queue: what its worker is given, and what the driver keeps of it.

    Attributes:
        run: the run directory; its `spec.json` says what to train.
        evaluations: by signature.
        accumulation: micro-batches a step is cut into, in place of the recipe's, after memory ran out.
        document: the content of `spec.json`.
        trials: (record, trial) of each cell x seed that shares the run.
        retries: attempts lost so far in this driver's time.
        due: time before which it is not started.
        waits: another process was seen to hold the run after its worker had ended.
        metric: the endpoint, where a training command trains.
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
        """What a worker is given, as JSON; `Job.of` reads it."""
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
        """The scores of the first test."""
        return self.run.scores_path(next(iter(self.evaluations)))

    @property
    def scored(self) -> bool:
        return all(map(self.run.has_scores, self.evaluations))

    @property
    def unscorable(self) -> EvaluationState | None:
        """The scoring of the finished training that failed, if one did."""
        return self.run.failed_evaluation(self.evaluations)


class Ended(Frozen):
    """A job that is no longer on its slot: a fact, which `studies.retry_policy` judges."""

    run: Path
    exit: Exit = "finished"
    message: str | None = None


class Launcher(ABC):
    """Puts jobs on slots and tells when they end. Used by one driver, from one thread.

    Attributes:
        slots: how many jobs it carries at once.
        here: whether jobs run on this machine.
    """

    slots: int
    here = True

    @classmethod
    def open(cls, folder: Path, compute: Compute) -> Launcher:
        """The launcher of a study, which may keep logs and scripts in the study's `folder`.

        Raises:
            InputError: what it needs is not there, or something that it needs is not installed.
        """
        return cls()

    @property
    @abstractmethod
    def free(self) -> int:
        """Slots without a job."""

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
        """Give up waiting jobs and ask running ones to write a checkpoint and end; `wait` tells of all."""

    @abstractmethod
    def close(self) -> None:
        """End everything at once."""

    def told(self) -> list[str]:
        """Lines for the user that have come up since this was last asked."""
        return []

    def adopt(self, note: dict[str, str], job: Job) -> bool:
        """Take over a job that a dead driver left a note of (`job.json`); false where it is not alive."""
        return False
