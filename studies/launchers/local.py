"""Worker processes on this machine, one per slot: a GPU, or a share of the cores."""

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

from .base import ALLOCATOR, Ended, Launcher, Task


class Slot:
    """What a worker may use.

    Attributes:
        threads: of the cores, for computing.
        gpu: index of a GPU, or none.
    """

    def __init__(self, threads: int, gpu: str | None = None) -> None:
        self.threads = threads
        self.gpu = gpu

    @property
    def environment(self) -> dict[str, str]:
        """Thread counts and the GPU, for the libraries that read them when imported."""
        count = str(self.threads)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        return dict.fromkeys(names, count) | {
            "CUDA_VISIBLE_DEVICES": self.gpu if self.gpu is not None else ""
        }


def find_slots(jobs: int | None = None, gpus: str | None = None, per_gpu: int = 1) -> list[Slot]:
    """The slots of this machine: its GPUs, else equal shares of its cores.

    Args:
        jobs: how many runs at once on the cores; one per core where not given.
        gpus: which GPUs, `0,2`; all that are found where not given; empty for none.
        per_gpu: runs on one GPU at once.

    Raises:
        ValueError: a GPU that is asked for is not there, or a count is not positive.
    """
    cores = len(os.sched_getaffinity(0))
    if per_gpu < 1 or (jobs is not None and jobs < 1):
        raise ValueError(f"jobs ({jobs}) and runs per GPU ({per_gpu}) are positive numbers")
    found = find_gpus() if gpus != "" else []
    wanted = [g.strip() for g in gpus.split(",")] if gpus else found
    missing = [g for g in wanted if g not in found]
    if missing:
        raise ValueError(f"no GPU {', '.join(missing)}; found: {', '.join(found) or 'none'}")
    if wanted and jobs is None:
        share = max(1, cores // (len(wanted) * per_gpu))
        return [Slot(share, gpu) for gpu in wanted for _ in range(per_gpu)]
    count = jobs or cores
    return [Slot(max(1, cores // count)) for _ in range(count)]


def find_gpus() -> list[str]:
    """Indices of the NVIDIA GPUs that the driver lists."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()


class _Worker:
    """One process and the task it holds."""

    def __init__(self, slot: Slot, log: Path, ended: queue.Queue[tuple[_Worker, Ended | None]]) -> None:
        self.slot = slot
        self.task: Task | None = None
        with log.open("a") as handle:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ablate.studies.worker", "--threads", str(slot.threads)],
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
    """Long-lived workers; one that dies takes only its run with it and is replaced.

    Args:
        slots: one per worker.
        log: file for what the workers print.
    """

    def __init__(self, slots: list[Slot], log: Path) -> None:
        self._log = log
        self._idle = list(slots)
        self._workers: list[_Worker] = []
        self._ended: queue.Queue[tuple[_Worker, Ended | None]] = queue.Queue()
        self.slots = len(slots)

    @property
    def free(self) -> int:
        return self.slots - sum(worker.task is not None for worker in self._workers)

    @property
    def pids(self) -> dict[Path, int]:
        """Process of each run on a slot."""
        return {worker.task.run: worker.process.pid for worker in self._workers if worker.task is not None}

    def submit(self, task: Task) -> None:
        if not self.free:
            raise RuntimeError(f"all {self.slots} slots are taken")
        worker = next((w for w in self._workers if w.task is None), None)
        if worker is None:
            worker = _Worker(self._idle.pop(), self._log, self._ended)
            self._workers.append(worker)
        worker.task = task
        worker.send({"task": task.model_dump(mode="json")})

    def wait(self, timeout: float) -> Iterable[Ended]:
        ended = []
        try:
            ended.append(self._take(*self._ended.get(timeout=timeout)))
            while True:
                ended.append(self._take(*self._ended.get_nowait()))
        except queue.Empty:
            return [e for e in ended if e is not None]

    def _take(self, worker: _Worker, ended: Ended | None) -> Ended | None:
        task, worker.task = worker.task, None
        if ended is not None:
            return ended
        if worker in self._workers:
            self._workers.remove(worker)
            self._idle.append(worker.slot)
        if task is None:
            return None
        return Ended(
            run=task.run, exit="killed", message=f"worker process ended with {worker.process.returncode}"
        )

    def stop(self) -> None:
        for worker in self._workers:
            worker.send({"stop": True})

    def close(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
        self._workers.clear()
