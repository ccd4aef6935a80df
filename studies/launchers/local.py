"""A launcher with worker processes on this machine, one per slot (a GPU, or a share of the cores)."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ablate.training.train_command.process import end_left_behind

from ..compute import Compute
from .base import ALLOCATOR, Ended, Job, Launcher
from .slots import Slot, check_gpus, find_slots

PROGRAM = ("-P", "-m", "ablate.studies.worker")
"""Arguments of a worker's Python interpreter."""


class _Worker:
    """One process and the job it holds."""

    def __init__(self, slot: Slot, log: Path, ended: queue.Queue[tuple[_Worker, Ended | None]]) -> None:
        self.slot = slot
        self.job: Job | None = None
        with log.open("a") as handle:
            self.process = subprocess.Popen(
                [sys.executable, *PROGRAM, "--threads", str(slot.threads), "--device", slot.device],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=handle,
                text=True,
                bufsize=1,
                env=ALLOCATOR | os.environ | slot.environment,
                start_new_session=True,
            )
        self._ended = ended
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with suppress(ValueError):  # a worker that cannot be understood is as good as dead
            for line in self.process.stdout:
                self._ended.put((self, Ended.model_validate_json(line)))
        self.process.kill()
        self.process.wait()
        self._ended.put((self, None))

    def send(self, message: dict) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass


class LocalLauncher(Launcher):
    """Runs jobs in long-lived workers. If a worker dies, only its run is lost, and the worker is replaced.

    Args:
        slots: the workers' slots, one each.
        log: file for the workers' output.
    """

    def __init__(self, slots: list[Slot], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._idle = list(slots)
        self._workers: list[_Worker] = []
        self._ended: queue.Queue[tuple[_Worker, Ended | None]] = queue.Queue()
        self.slots = len(slots)

    @classmethod
    def open(cls, folder: Path, compute: Compute) -> LocalLauncher:
        """A worker for each slot of this machine.

        Raises:
            InputError: the slots do not exist, or torch cannot use one of the GPUs.
        """
        slots = find_slots(compute.jobs, compute.gpus, compute.runs_per_gpu, compute.gpus_each)
        check_gpus(slots)
        return cls(slots, folder / "workers.log")

    @property
    def free(self) -> int:
        return self.slots - sum(worker.job is not None for worker in self._workers)

    @property
    def pids(self) -> dict[Path, int]:
        """Run directory -> process, for each run on a slot."""
        return {worker.job.run.path: worker.process.pid for worker in self._workers if worker.job is not None}

    def submit(self, job: Job) -> None:
        if not self.free:
            raise RuntimeError(f"all {self.slots} slots are in use")
        worker = next((w for w in self._workers if w.job is None), None)
        if worker is None:
            worker = _Worker(self._idle.pop(0), self._log, self._ended)
            self._workers.append(worker)
        worker.job = job
        worker.send({"job": job.given})

    def wait(self, timeout: float) -> Iterable[Ended]:
        ended = []
        try:
            ended.append(self._take(*self._ended.get(timeout=timeout)))
            while True:
                ended.append(self._take(*self._ended.get_nowait()))
        except queue.Empty:
            return [e for e in ended if e is not None]

    def _take(self, worker: _Worker, ended: Ended | None) -> Ended | None:
        job, worker.job = worker.job, None
        if ended is not None:
            return ended
        if worker in self._workers:
            self._workers.remove(worker)
            self._idle.append(worker.slot)
        if job is None:
            return None
        return Ended(
            run=job.run.path, exit="killed", message=f"worker process ended with {worker.process.returncode}"
        )

    def stop(self) -> None:
        for worker in self._workers:
            worker.send({"stop": True})

    def close(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
            if worker.job is not None:
                end_left_behind(worker.job.run)
        self._workers.clear()
