"""The program of a SLURM job: one run, on the device that all jobs of the study use."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ablate.models.errors import InputError
from ablate.training.files import locked
from ablate.training.rundir import RunDir, read_json, write_json

from ..worker import carry_out
from .base import Job
from .slots import NO_GPU, VISIBLE

EARLY = 120.0
"""A signal this many seconds before a job's time limit, or later, means that the time is up: SLURM signals up
to a minute early, and our clock starts later than SLURM's."""


class SlurmRun:
    """The function of a job; submitit requeues it with the same arguments after preemption.

    Args:
        folder: folder of the study's jobs, with the file that names their device.
        seconds: a signal to end after this many seconds means that the time limit is reached.
    """

    folder: Path | None = None
    seconds = math.inf

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds

    def __call__(self, task: dict[str, Any]) -> None:
        self._began = time.monotonic()
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        threads = int(os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        run = RunDir(task["run"])
        try:
            device = "auto"
            if self.folder is not None and "train" not in run.spec:  # a command chooses by itself
                device = agreed_device(self.folder)
        except InputError as error:
            with run.lock():
                run.update_state(state="failed", cause="device", message=str(error))
            return
        ended = carry_out(Job.of(task), threads=threads, device=device, should_stop=stop.is_set)
        if ended.message:
            print(ended.message, file=sys.stderr)

    def checkpoint(self, task: dict[str, Any]) -> Any:
        """Called by submitit before the job is requeued; a `RunFailure` raised here ends the run."""
        from submitit.helpers import DelayedSubmission

        from ablate.training.failures import RunFailure

        if time.monotonic() - self._began >= self.seconds and (why := time_is_up(RunDir(task["run"]))):
            raise RunFailure("time-limit") from InputError(why)
        return DelayedSubmission(self, task)


def agreed_device(folder: Path) -> str:
    """The device of all jobs of a study, `cpu` or `cuda`: that of the first job.

    If `CUDA_VISIBLE_DEVICES` is not set, torch decides whether the job has a GPU.

    Raises:
        InputError: this job cannot train on the device, or has a GPU while the study trains on the CPU.
    """
    visible = os.environ.get(VISIBLE)
    given = visible is not None and visible.split(",")[0].strip() not in NO_GPU
    if visible is None:
        import torch

        found = "cuda" if torch.cuda.is_available() else "cpu"
    else:
        found = "cuda" if given else "cpu"
    path = folder / "device"
    with locked(folder / "device.lock"):
        agreed = path.read_text() if path.exists() else found
        path.write_text(agreed)
    if agreed != found and (found == "cpu" or given):
        raise InputError(
            f"the jobs of this study train on {agreed}, but this one, on {os.uname().nodename}, has "
            f"{'no GPU' if found == 'cpu' else 'a GPU'}: differences between devices would look like "
            "effects of factors; request one kind of node (--slurm gres=gpu:1 or partition=NAME), or "
            f"remove {path}"
        )
    return agreed


def time_is_up(run: RunDir) -> str | None:
    """Record that an attempt ended at SLURM's time limit.

    Returns why another attempt would not help, if the previous attempt ended in the same way and both started
    at the same step. Otherwise None.
    """
    path, attempt = run.path / "time_limit.json", run.state.attempts
    line: dict[str, Any] = {}
    if (lines := run.attempts()) and lines[-1]["attempt"] == attempt:
        line = lines[-1]
    start = None if line.get("resumed") else line.get("step", 0)
    before = read_json(path) or {}
    if before.get("attempt") == attempt:
        return None
    write_json(path, {"attempt": attempt, "start": start})
    if start is None or before != {"attempt": attempt - 1, "start": start}:
        return None
    return (
        f"attempts {attempt - 1} and {attempt} both ended at SLURM's time limit and started at step "
        f"{start}: give more time (--slurm time=MINUTES), or write checkpoints more often"
    )
