"""The interface of a launcher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

from ablate.models.config import Frozen
from ablate.training.config import EvaluationJob

from ..retry_policy import Exit

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""What workers start with, unless it is set: glibc keeps what a training step frees instead of giving it back
to the system and faulting it in again at the next step, and torch asks for huge pages. A step on the CPU
takes up to a third less; `benchmarks/training_step.py` measures it."""


class Task(Frozen):
    """What a worker needs to carry out one run.

    Attributes:
        run: the run directory; its `spec.json` says what to train.
        accumulation: micro-batches a step is cut into, in place of the recipe's, after memory ran out.
    """

    run: Path
    evaluations: tuple[EvaluationJob, ...]
    cache: Path
    accumulation: int | None = None


class Ended(Frozen):
    """A task that is no longer on its slot: a fact, which `studies.retry_policy` judges."""

    run: Path
    exit: Exit = "finished"
    message: str | None = None


class Resources(Frozen):
    """Where runs may go, as `ablate run` was told; a launcher takes what concerns it.

    Attributes:
        jobs: runs at once.
        gpus: which GPUs of this machine, `0,2`; empty for none.
        gpus_each: of one run.
        partition: of a cluster.
        settings: `name=value` texts for a scheduler.
    """

    jobs: int | None = None
    gpus: str | None = None
    runs_per_gpu: int = 1
    gpus_each: int = 1
    partition: str | None = None
    settings: tuple[str, ...] = ()


class Launcher(ABC):
    """Puts tasks on slots and tells when they end. Used by one driver, from one thread.

    Attributes:
        slots: how many tasks it carries at once.
        here: whether tasks run on this machine.
    """

    slots: int
    here = True

    @classmethod
    def open(cls, folder: Path, resources: Resources) -> Launcher:
        """The launcher of a study, which may keep logs and scripts in the study's `folder`.

        Raises:
            InputError: the resources are not there, or something that it needs is not installed.
        """
        return cls()

    @property
    @abstractmethod
    def free(self) -> int:
        """Slots without a task."""

    @abstractmethod
    def submit(self, task: Task) -> None:
        """Start a task on a free slot.

        Raises:
            RuntimeError: no slot is free.
        """

    @abstractmethod
    def wait(self, timeout: float) -> Iterable[Ended]:
        """The tasks that ended, after at most `timeout` seconds."""

    @abstractmethod
    def stop(self) -> None:
        """Give up waiting tasks and ask running ones to write a checkpoint and end; `wait` tells of all."""

    @abstractmethod
    def close(self) -> None:
        """End everything at once."""

    def told(self) -> list[str]:
        """Lines for the user that have come up since this was last asked."""
        return []

    def adopt(self, job: dict[str, str], task: Task) -> bool:
        """Take over a job that a dead driver left (the run's `job.json`); false where it is not alive."""
        return False
