"""Options for running a study that do not affect results."""

from __future__ import annotations

from pydantic import Field

from ablate.models.config import Frozen


class Compute(Frozen):
    """Where to run, where to record, and how to handle failures. Results do not depend on it.

    Attributes:
        launcher: name in `launchers.LAUNCHERS`; each launcher ignores fields that do not concern it.
        jobs: number of runs at once.
        gpus: GPUs of this machine to use, e.g. `0,2`; empty for the CPU.
        gpus_each: number of GPUs of one run, set by the training command.
        slurm: `name=value` texts for the scheduler.
        storage: URL of Optuna's storage. Default: a journal in the study's folder.
        tracking_uri: MLflow's tracking URI. Default: a file under the root.
        retries: maximum number of retries after a lost worker, lack of memory or preemption.
        max_failures: stop starting runs after this many failed or diverged. Default: unlimited.
        retry_failed: also restart runs that failed or diverged for good.
    """

    launcher: str = "local"
    jobs: int | None = None
    gpus: str | None = None
    runs_per_gpu: int = 1
    gpus_each: int = 1
    slurm: tuple[str, ...] = ()
    storage: str | None = Field(default=None, repr=False)
    tracking_uri: str | None = Field(default=None, repr=False)
    retries: int = 4
    max_failures: int | None = None
    retry_failed: bool = False
