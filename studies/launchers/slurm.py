"""Runs as SLURM jobs, submitted in arrays by submitit (the optional extra `slurm`).

A job that is preempted or runs out of its time is requeued by submitit and goes on from the run's last
checkpoint; one that SLURM gives up is told to the driver, which tries it again. Jobs outlive their driver:
the next one adopts them by the id in the run directory's `job.json`. Their state is asked of `squeue`,
which needs no accounting database.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ablate.ablations.factors import parse_value
from ablate.training.rundir import write_json

from ..worker import carry_out
from .base import ALLOCATOR, Ended, Launcher, Task

POLL = 2.0
"""Seconds between two calls of `squeue`."""
ALIVE = frozenset(
    {
        *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING"),
        *(
            "SIGNALING",
            "STAGE_OUT",
            "REQUEUED",
            "REQUEUE_FED",
            "REQUEUE_HOLD",
            "SPECIAL_EXIT",
            "RESV_DEL_HOLD",
        ),
    }
)
"""Job states from which SLURM itself goes on."""
PREEMPTED = frozenset({"PREEMPTED", "CANCELLED", "NODE_FAIL", "TIMEOUT", "BOOT_FAIL", "DEADLINE", "REVOKED"})
"""Job states in which the slot was taken away, not the run at fault."""


class SlurmRun:
    """What a job calls; submitit requeues it with the same arguments when the job is preempted."""

    def __call__(self, task: dict[str, Any]) -> None:
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        threads = int(os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        ended = carry_out(Task.model_validate(task), threads=threads, should_stop=stop.is_set)
        if ended.busy:
            raise RuntimeError(ended.message)

    def checkpoint(self, task: dict[str, Any]) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, task)


class SlurmLauncher(Launcher):
    """Submits what the driver hands over between two waits as one array.

    Args:
        folder: the study's; scripts and logs of the jobs go to `slurm/` in it.
        partition: of the cluster.
        settings: `name=value` texts of submitit's SLURM parameters: time (minutes), mem, gres, qos, ...
        slots: jobs queued or running at once.

    Raises:
        RuntimeError: submitit or SLURM's commands are missing.
        ValueError: a setting is none of SLURM's.
    """

    def __init__(
        self, folder: Path, partition: str | None = None, settings: Iterable[str] = (), slots: int = 256
    ) -> None:
        try:
            import submitit
        except ImportError as error:
            raise RuntimeError("the slurm launcher needs submitit: pip install 'ablate[slurm]'") from error
        logging.getLogger("submitit").setLevel(logging.ERROR)
        python = f"{shlex.quote(sys.executable)} -P"
        self._executor = submitit.SlurmExecutor(folder=folder / "slurm", max_num_timeout=100, python=python)
        parameters: dict[str, Any] = {"job_name": "ablate", "time": 24 * 60, "cpus_per_task": 1}
        parameters["setup"] = [f"export {name}=${{{name}:-{value}}}" for name, value in ALLOCATOR.items()]
        parameters |= {"partition": partition} if partition else {}
        for setting in settings:
            name, separator, value = setting.partition("=")
            if not separator:
                raise ValueError(f"SLURM setting {setting!r}: write name=value, e.g. time=60")
            parameters[name] = parse_value(value)
        self._executor.update_parameters(**parameters)
        self.slots = slots
        self._waiting: list[Task] = []
        self._jobs: dict[str, Path] = {}
        self._polled = 0.0

    @property
    def free(self) -> int:
        return self.slots - len(self._jobs) - len(self._waiting)

    def submit(self, task: Task) -> None:
        if not self.free:
            raise RuntimeError(f"all {self.slots} slots are taken")
        self._waiting.append(task)

    def wait(self, timeout: float) -> Iterable[Ended]:
        if self._waiting:
            tasks, self._waiting = self._waiting, []
            jobs = self._executor.map_array(SlurmRun(), [task.model_dump(mode="json") for task in tasks])
            for task, job in zip(tasks, jobs, strict=True):
                write_json(task.run / "job.json", {"launcher": "slurm", "id": job.job_id})
                self._jobs[job.job_id] = task.run
        time.sleep(timeout)
        if time.time() - self._polled < POLL or not self._jobs:
            return []
        self._polled = time.time()
        states = job_states(list(self._jobs))
        ended = [
            Ended(
                run=self._jobs.pop(job),
                lost=states[job] not in PREEMPTED,
                preempted=states[job] in PREEMPTED,
                message=f"SLURM job {job} ended as {states[job]}",
            )
            for job in list(self._jobs)
            if states[job] not in ALIVE
        ]
        return ended

    def adopt(self, job: dict[str, str], task: Task) -> bool:
        if job["launcher"] != "slurm" or job_states([job["id"]])[job["id"]] not in ALIVE:
            return False
        self._jobs[job["id"]] = task.run
        return True

    def stop(self) -> None:
        self._waiting.clear()
        if self._jobs:
            subprocess.run(["scancel", *self._jobs], check=False, capture_output=True)

    def close(self) -> None:
        """Leave the jobs to SLURM; the next driver adopts them."""
        self._jobs.clear()


def job_states(jobs: list[str]) -> dict[str, str]:
    """The state of each job as `squeue` tells it; `GONE` for one that it no longer knows.

    A controller that does not answer counts as `PENDING`: nothing is concluded from its silence.
    """
    states = dict.fromkeys(jobs, "GONE")
    parents = sorted({job.split("_")[0] for job in jobs})
    listed = subprocess.run(
        ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T", f"--jobs={','.join(parents)}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0 and "Invalid job id" not in listed.stderr:
        return dict.fromkeys(jobs, "PENDING")
    for line in listed.stdout.splitlines():
        job, state = line.split()
        if job in states:
            states[job] = state
    return states
