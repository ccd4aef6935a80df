"""The driver: takes what a plan lacks, puts it on slots, retries by cause, and keeps Optuna's record true.

Run directories are the truth. A driver may die at any moment; the next one reads them and goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from ablate.ablations.runspec import run_path
from ablate.training.config import EvaluationJob
from ablate.training.rundir import RETRIED, RunDir, read_json

from .launchers import Launcher, Task
from .plan import Plan, cache_path
from .trials import Entry, TrialBook

BUSY_PAUSE = 5.0
"""Seconds before a run that another process was writing is looked at again."""


@dataclass
class Job:
    """One training and the cells x seeds that share it.

    Attributes:
        members: (record, trial) of each cell x seed.
        retries: attempts lost so far in this driver's time.
        due: time before which it is not started.
    """

    run: RunDir
    document: dict[str, Any]
    evaluations: dict[str, EvaluationJob]
    members: list[tuple[TrialBook, Entry]]
    retries: int = 0
    due: float = 0.0
    accumulation: int | None = None

    @property
    def name(self) -> str:
        return ", ".join(f"{entry.key[0]} seed {entry.key[1]}" for _, entry in self.members)

    @property
    def scored(self) -> bool:
        return all(self.run.scores_path(signature).exists() for signature in self.evaluations)

    @property
    def done(self) -> bool:
        return self.run.state.state == "done" and self.scored


@dataclass(frozen=True)
class Policy:
    """How failures are met.

    Attributes:
        retries: further attempts after a lost worker, lost memory or preemption.
        max_failures: stop starting runs after this many failed or diverged; none: never.
        retry_failed: start again also what failed or diverged for good.
    """

    retries: int = 4
    max_failures: int | None = None
    retry_failed: bool = False


@dataclass
class Outcome:
    """What a driver leaves: jobs by how they ended, and those not reached."""

    done: list[Job] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)
    left: list[Job] = field(default_factory=list)
    trained: int = 0
    interrupted: bool = False


class Progress:
    """What a driver tells while it works; the base class says nothing."""

    def start(self, jobs: int, done: int) -> None:
        """`jobs` in all, of which `done` need nothing."""

    def update(self, active: Iterable[Job]) -> None:
        """Called about twice a second with the jobs on slots."""

    def ended(self, job: Job, note: str) -> None:
        """A job ended, or is tried again; `note` says how."""

    def close(self) -> None:
        """The driver ends."""


def plan_jobs(plan: Plan, root: Path, book: TrialBook, seeds: Iterable[int]) -> list[Job]:
    """A job per distinct training of a plan, seed by seed so that every cell has its first seed early."""
    jobs: dict[str, Job] = {}
    for seed in seeds:
        for cell in plan.cells:
            signature = cell.signatures[seed]
            job = jobs.get(signature)
            if job is None:
                run = RunDir(run_path(root, signature))
                job = jobs[signature] = Job(run, plan.spec(cell, seed).document(), {}, [])
            evaluation = plan.evaluation_job(cell, seed)
            job.evaluations[evaluation.signature] = evaluation
            job.members.append((book, book.entries[cell.name, seed]))
    return list(jobs.values())


class Driver:
    """Runs jobs on a launcher until none is left.

    Args:
        renew: called regularly, to keep the lease of the study.
    """

    def __init__(
        self,
        root: Path,
        launcher: Launcher,
        policy: Policy | None = None,
        progress: Progress | None = None,
        renew: Callable[[], None] = lambda: None,
    ) -> None:
        self._root = root
        self._launcher = launcher
        self._policy = policy or Policy()
        self._progress = progress or Progress()
        self._renew = renew
        self._active: dict[Path, Job] = {}

    def run(self, jobs: list[Job]) -> Outcome:
        """Carry out `jobs`; returns when all ended, the failures are too many, or on Ctrl-C."""
        outcome = Outcome()
        queue = [job for job in jobs if not self._settle(job, outcome)]
        self._progress.start(len(jobs), len(outcome.done) + len(outcome.failed))
        try:
            self._loop(queue, outcome)
        except KeyboardInterrupt:
            outcome.interrupted = True
            self._wind_down(queue, outcome)
        finally:
            self._progress.close()
        outcome.left = queue + list(self._active.values())
        return outcome

    def _settle(self, job: Job, outcome: Outcome) -> bool:
        """Bring Optuna's record in line with a run directory; true where nothing is left to do."""
        state = job.run.state
        if job.done:
            self._complete(job)
            outcome.done.append(job)
            return True
        left_behind = read_json(job.run.path / "job.json")
        if left_behind and self._launcher.adopt(left_behind, self._task(job)):
            self._active[job.run.path] = job
            for book, entry in job.members:
                book.start(entry)
            return True
        final = state.state == "diverged" or (state.state == "failed" and state.cause not in RETRIED)
        for book, entry in job.members:
            if entry.state == TrialState.RUNNING:
                book.fail(entry, (final and state.cause) or "lost-driver")
        if final and not self._policy.retry_failed:
            self._fail(job, state.cause or state.state)
            outcome.failed.append(job)
            return True
        if final:
            job.run.update_state(state="pending", cause=None, message=None)
        again = {TrialState.FAIL} if state.state == "done" else {TrialState.FAIL, TrialState.COMPLETE}
        job.members = [
            (book, book.retry(entry) if entry.state in again else entry) for book, entry in job.members
        ]
        return False

    def _loop(self, queue: list[Job], outcome: Outcome) -> None:
        before = len(outcome.failed)
        while queue or self._active:
            self._renew()
            limit = self._policy.max_failures
            enough = limit is not None and len(outcome.failed) - before >= limit
            if enough and not self._active:
                return
            while self._launcher.free and not enough:
                ready = next((job for job in queue if job.due <= time.time()), None)
                if ready is None:
                    break
                queue.remove(ready)
                self._submit(ready)
            for ended in self._launcher.wait(0.5):
                job = self._active.pop(ended.run)
                if ended.busy:
                    job.due = time.time() + BUSY_PAUSE
                    queue.append(job)
                elif self._ended(job, ended.lost, ended.preempted, ended.message, outcome):
                    queue.append(job)
            self._progress.update(self._active.values())

    def _task(self, job: Job) -> Task:
        return Task(
            run=job.run.path,
            evaluations=tuple(job.evaluations.values()),
            cache=cache_path(self._root),
            accumulation=job.accumulation,
        )

    def _submit(self, job: Job) -> None:
        if read_json(job.run.path / "spec.json") != job.document:
            job.run.write_spec(job.document)
        for book, entry in job.members:
            book.start(entry)
        self._active[job.run.path] = job
        self._launcher.submit(self._task(job))

    def _ended(self, job: Job, lost: bool, preempted: bool, message: str | None, outcome: Outcome) -> bool:
        """Take note of a job's end; true where it is to be tried again."""
        if (lost or preempted) and not job.done and not job.run.locked:
            cause = "preempted" if preempted else "lost-worker"
            job.run.update_state(state="failed", cause=cause, message=message)
        state = job.run.state
        if job.done:
            self._complete(job)
            outcome.done.append(job)
            outcome.trained += 1
            score = "not measured" if state.val_pesq_wb is None else f"{state.val_pesq_wb:.2f}"
            self._progress.ended(job, f"done, validation PESQ {score}")
            return False
        cause = state.cause or state.state
        if (cause in RETRIED or state.state in ("pending", "running")) and job.retries < self._policy.retries:
            self._retry(job, cause)
            return True
        self._fail(job, cause)
        outcome.failed.append(job)
        self._progress.ended(job, f"{state.state}: {cause}: {state.message or 'see its log.txt'}")
        return False

    def _retry(self, job: Job, cause: str) -> None:
        job.retries += 1
        job.due = time.time() + 2.0 ** (job.retries - 1)
        if cause == "out-of-memory":
            now = job.accumulation or job.document["recipe"]["accumulation"]
            job.accumulation = min(2 * now, job.document["recipe"]["batch_size"])
        for index, (book, entry) in enumerate(job.members):
            book.fail(entry, cause)
            job.members[index] = (book, book.retry(entry))
        self._progress.ended(job, f"{cause}; attempt {job.retries + 1} in {2.0 ** (job.retries - 1):.0f} s")

    def _complete(self, job: Job) -> None:
        curve = {
            line["step"]: line["val/pesq_wb"]
            for line in job.run.metrics()
            if line.get("val/pesq_wb") is not None
        }
        value = job.run.state.val_pesq_wb
        if value is None:
            self._fail(job, "validation PESQ could not be measured")
            return
        for index, (book, entry) in enumerate(job.members):
            if entry.state == TrialState.FAIL:
                entry = book.retry(entry)
                job.members[index] = (book, entry)
            book.complete(entry, value, curve)

    def _fail(self, job: Job, cause: str) -> None:
        for book, entry in job.members:
            book.fail(entry, cause)

    def _wind_down(self, queue: list[Job], outcome: Outcome) -> None:
        """After Ctrl-C: let the runs on slots write their checkpoints."""
        self._launcher.stop()
        deadline = time.time() + 60
        while self._active and time.time() < deadline:
            for ended in self._launcher.wait(0.5):
                job = self._active.pop(ended.run)
                if job.done:
                    self._complete(job)
                    outcome.done.append(job)
                    outcome.trained += 1
                else:
                    self._fail(job, "interrupted")
                    queue.append(job)
