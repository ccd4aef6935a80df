"""A launcher for debugging: runs jobs in the driver's own process, one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..worker import carry_out
from .base import Ended, Job, Launcher


class InlineLauncher(Launcher):
    """One slot; `submit` returns when the job has ended."""

    slots = 1

    def __init__(self) -> None:
        self._ended: list[Ended] = []

    @property
    def free(self) -> int:
        return self.slots - len(self._ended)

    def submit(self, job: Job) -> None:
        if not self.free:
            raise RuntimeError("the only slot of the inline launcher is in use")
        cores = os.cpu_count() or 1
        self._ended.append(carry_out(job, threads=cores, device="auto", should_stop=lambda: False))

    def wait(self, timeout: float) -> Iterable[Ended]:
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None:
        """Do nothing, since a job never runs when the driver calls this."""

    def close(self) -> None:
        self._ended.clear()
