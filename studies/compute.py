"""How a study is run."""

from __future__ import annotations

from pydantic import Field

from ablate.models.config import Frozen


class Compute(Frozen):
    """Where runs go, what keeps their record, and how failures are met. No result depends on it.

    Attributes:
        launcher: of `launchers.LAUNCHERS`; it takes what concerns it of the rest.
        jobs: runs at once.
        gpus: which GPUs of this machine, `0,2`; empty for none.
        gpus_each: of one run; a training command says it.
        slurm: `name=value` texts for the scheduler.
        storage: Optuna's, a URL; none: a journal in the study's folder.
        tracking_uri: MLflow's; none: a file under the root.
        retries: further attempts after a lost worker, lost memory or preemption.
        max_failures: stop starting runs after this many failed or diverged; none: never.
        retry_failed: start again also what failed or diverged for good.
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
