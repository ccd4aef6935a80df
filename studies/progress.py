"""The progress display of `ablate run`: a live table in a terminal, a line per ended run elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ablate.models.errors import duration

from .driver import DriverProgress, Job


class ConsoleProgress(DriverProgress):
    """Cell, step, loss, validation PESQ and time left of the runs on slots; ended runs scroll by."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("runs"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def start(self, jobs: int, done: int) -> None:
        for former in self._bar.task_ids:
            self._bar.remove_task(former)
        self._started, self._ended = time.time(), 0
        self._task = self._bar.add_task("runs", total=jobs, completed=done, left="")
        self._jobs, self._done = jobs, done
        if self._console.is_terminal and done < jobs:
            self._live.start()

    def update(self, active: Iterable[Job]) -> None:
        if not self._live.is_started:
            return
        table = Table(box=None, pad_edge=False)
        for heading in ("run", "step", "loss", "val PESQ", "left"):
            table.add_column(heading, justify="left" if heading == "run" else "right", no_wrap=True)
        share = 0.0
        for job in active:
            state, curve = job.run.state, job.run.metrics()
            last = curve[-1] if curve else {}
            share += state.step / state.steps if state.steps else 0
            table.add_row(
                job.name,
                f"{state.step}/{state.steps or '?'}",
                _number(last.get("train/loss"), ".4f"),
                _number(last.get("val/pesq_wb"), ".2f"),
                _left(state.seconds_per_step, state.steps, state.step),
            )
        fresh = self._ended + share
        if fresh > 0.2:
            rate = (time.time() - self._started) / fresh
            left = f"about {duration(rate * (self._jobs - self._done - fresh))} left"
            self._bar.update(self._task, completed=self._done + self._ended, left=left)
        self._live.update(Group(table, self._bar))

    def ended(self, job: Job, note: str, *, final: bool) -> None:
        self._ended += final
        self.told(f"[{self._done + self._ended}/{self._jobs}] {job.name}: {note}")

    def told(self, line: str) -> None:
        console = self._live.console if self._live.is_started else self._console
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._live.stop()


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _left(rate: float | None, steps: int | None, step: int) -> str:
    return duration(rate * (steps - step)) if rate and steps else ""
