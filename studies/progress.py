"""The progress display of `ablate run`: a live view in a terminal, a line per ended run elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ablate.models.errors import duration, plural

from .driver import DriverProgress
from .launchers import Job

MARKS = {"done": ("●", "green"), "failed": ("✗", "red"), "running": ("◐", "yellow"), "waits": ("·", "dim")}
MOST_SEEDS = 40
"""Maximum number of columns; with more seeds, the last ones are shown."""


class ConsoleProgress(DriverProgress):
    """Shows the state of each cell x seed, the steps of running jobs, failures and time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def start(self, jobs: Sequence[Job], done: Sequence[Job], failed: Sequence[Job]) -> None:
        self._began, self._ended, self._before = time.time(), 0, len(done) + len(failed)
        self._jobs = len(jobs)
        self._marks: dict[tuple[str, int], str] = {}
        for mark, found in (("waits", jobs), ("done", done), ("failed", failed)):
            for job in found:
                self._set(job, mark)
        if self._console.is_terminal and self._before < self._jobs:
            self._live.start()

    def _set(self, job: Job, mark: str) -> None:
        for _, trial in job.trials:
            length = trial.attributes.get("length", 1.0)
            self._marks[trial.key[0] + ("" if length == 1.0 else f" at {length:g}"), trial.key[1]] = mark

    def update(self, active: Iterable[Job]) -> None:
        if not self._live.is_started:
            return
        runs = Table(box=None, pad_edge=False)
        for heading in ("run", "", "step", "loss", "val PESQ", "left"):
            runs.add_column(heading, justify="left" if heading in ("run", "") else "right", no_wrap=True)
        share = 0.0
        for job in active:
            self._set(job, "running")
            state, curve = job.run.state, job.run.metrics()
            last = curve[-1] if curve else {}
            share += state.step / state.steps if state.steps else 0
            runs.add_row(
                job.name,
                ProgressBar(state.steps or 100, state.step, width=16),
                f"{state.step}/{state.steps or '?'}",
                _number(last.get("train/loss"), ".4f"),
                _number(last.get("val/pesq_wb"), ".2f"),
                _left(state.seconds_per_step, state.steps, state.step),
            )
        self._live.update(Group(self._grid(runs.row_count), runs, self._line(self._ended + share)))

    def _grid(self, below: int) -> Table:
        """A row per cell, a column per seed; if there are many cells, partly done ones come first."""
        seeds = sorted({seed for _, seed in self._marks})[-MOST_SEEDS:]
        rows: dict[str, list[str]] = {}
        for cell, seed in self._marks:
            if seed in seeds:
                rows.setdefault(cell, [self._marks.get((cell, each), "") for each in seeds])
        room = max(3, self._console.height - below - 7)
        shown = list(rows)
        if len(rows) > room:
            moving = sorted(rows, key=lambda cell: set(rows[cell]) in ({"done"}, {"waits"}))
            shown = [cell for cell in rows if cell in set(moving[:room])]
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        hidden = len(rows) - len(shown)
        table.add_column("cell" + (f" ({hidden} more)" if hidden else ""), no_wrap=True)
        for index in range(len(seeds)):
            table.add_column(str(index + 1) if seeds[-1] > 999 else str(seeds[index]), justify="center")
        for cell in shown:
            table.add_row(cell, *(Text(*MARKS[mark]) if mark else "" for mark in rows[cell]))
        return table

    def _line(self, fresh: float) -> Table:
        """The line of the total progress."""
        failed = list(self._marks.values()).count("failed")
        left = ""
        if fresh > 0.2:
            rate = (time.time() - self._began) / fresh
            left = f"about {duration(rate * (self._jobs - self._before - fresh))} left"
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_row(
            ProgressBar(self._jobs, self._before + fresh, width=30),
            f"{self._before + self._ended} of {plural(self._jobs, 'run')}",
            Text(f"{failed} failed", "red") if failed else "",
            duration(time.time() - self._began),
            left,
        )
        return line

    def ended(self, job: Job, note: str, *, final: bool) -> None:
        self._ended += final
        done = job.run.state.state == "done" and job.scored
        self._set(job, "done" if done else "failed" if final else "waits")
        self.told(f"[{self._before + self._ended}/{self._jobs}] {job.name}: {note}")

    def told(self, line: str) -> None:
        console = self._live.console if self._live.is_started else self._console
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._live.stop()


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _left(rate: float | None, steps: int | None, step: int) -> str:
    return duration(rate * (steps - step)) if rate and steps else ""
