"""The driver: runs the missing jobs of a plan, retries by cause, and keeps Optuna's record up to date.

Run directories are the source of truth. A driver may die at any moment; the next one reads them and
continues.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from ablate.training.contract import micro_batches
from ablate.training.rundir import RunLockedError, read_json
from ablate.training.train_command.curve import reread
from ablate.training.train_command.process import end_left_behind

from . import train_command
from .compute import Compute
from .launchers import Ended, Job, Launcher
from .plan import Plan, cache_path, run_of
from .reach import ReachWatch
from .retry_policy import Action, at_start, decide
from .trials import TrialBook

LOCKED_PAUSE = 5.0
"""Seconds before checking a run again that another process was writing."""
STOP_SECONDS = 60.0
"""Seconds that running jobs have to write their checkpoints after Ctrl-C."""


@dataclass
class Outcome:
    """The result of a driver: jobs by how they ended, and jobs that remain."""

    done: list[Job] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)
    left: list[Job] = field(default_factory=list)
    trained: int = 0
    interrupted: bool = False

    def add(self, later: Outcome) -> None:
        """Add the result of a later run of the driver."""
        self.done += later.done
        self.failed += later.failed
        self.left, self.interrupted = later.left, later.interrupted
        self.trained += later.trained


class DriverProgress:
    """Receives the driver's progress; the base class ignores it."""

    def start(self, jobs: Sequence[Job], done: Sequence[Job], failed: Sequence[Job]) -> None:
        """Called at the start with all jobs, and with those that need not run: already done, or failed."""

    def update(self, active: Iterable[Job]) -> None:
        """Called about twice a second with the jobs on slots."""

    def ended(self, job: Job, note: str, *, final: bool) -> None:
        """Called when a job left its slot. `note` says how it ended; `final` means that it is not retried."""

    def told(self, line: str) -> None:
        """Called with a message from the launcher."""

    def close(self) -> None:
        """Called when the driver ends."""


def plan_jobs(
    plan: Plan, root: Path, book: TrialBook, runs: Collection[tuple[str, int]] | None = None
) -> list[Job]:
    """A job for each distinct training of some (cell, seed) pairs of a plan (default: all).

    Jobs are in the order of seeds, so that every cell has its first seed early.
    """
    return joined(
        Job(
            run_of(root, cell, seed),
            cache_path(root),
            {each.signature: each for each in plan.evaluation_jobs(cell, seed)},
            document=plan.spec(cell, seed).document(),
            trials=[(book, book.trials[cell.name, seed])],
            metric=plan.program.other_value(plan.endpoint.metric),
        )
        for cell, seed in sorted(plan.runs, key=lambda run: run[1])
        if runs is None or (cell.name, seed) in runs
    )


def joined(jobs: Iterable[Job]) -> list[Job]:
    """The jobs, with those of the same run directory merged."""
    found: dict[Path, Job] = {}
    for job in jobs:
        known = found.setdefault(job.run.path, job)
        if known is not job:
            known.evaluations |= job.evaluations
            known.trials += job.trials
    return list(found.values())


class Driver:
    """Runs jobs on a launcher until none is left.

    Args:
        check: called regularly; raises if another driver has taken over the study.
        watch: checks new scores, and stops the cells of a factor that does not change them.
    """

    def __init__(
        self,
        launcher: Launcher,
        compute: Compute | None = None,
        progress: DriverProgress | None = None,
        check: Callable[[], None] = lambda: None,
        watch: ReachWatch | None = None,
    ) -> None:
        self._watch = watch
        self._launcher = launcher
        self._compute = compute or Compute()
        self._progress = progress or DriverProgress()
        self._check = check
        self._queue: list[Job] = []
        self._active: dict[Path, Job] = {}
        self._undecided: list[tuple[float, Job, Ended]] = []
        self._outcome = Outcome()
        self._commands = train_command.CommandRuns()

    def run(self, jobs: list[Job]) -> Outcome:
        """Run `jobs`. Returns when all have ended, when too many have failed, or on Ctrl-C."""
        outcome = self._outcome = Outcome()
        self._stopped: list[Job] = []
        self._queue = [job for job in jobs if self._remains(job)]
        self._progress.start(jobs, outcome.done, outcome.failed)
        if self._commands.stop and self._queue:
            self._progress.told(self._commands.stop)
        try:
            self._loop()
        except KeyboardInterrupt:
            outcome.interrupted = True
            self._wind_down()
        finally:
            self._progress.close()
        undecided = [job for _, job, _ in self._undecided]
        outcome.left = [*self._queue, *self._active.values(), *undecided, *self._stopped]
        return outcome

    def _remains(self, job: Job) -> bool:
        """Update Optuna's record from a run directory. Returns whether the job must run."""
        state, unscorable = job.run.state, job.unscorable
        found = at_start(
            state,
            scored=job.scored,
            unscorable=unscorable.cause if unscorable else None,
            divisible=job.divisible,
            retry_failed=self._compute.retry_failed,
        )
        if job.metric is not None and state.state == "done":
            reread(job.run, job.document["train"])
        if found == "done":
            self._close(job)
            return False
        left_behind = read_json(job.run.path / "job.json") if found == "run" else None
        if left_behind and self._launcher.adopt(left_behind, job):
            self._active[job.run.path] = job
            self._start(job)
            return False
        cause = (unscorable and unscorable.cause) or state.cause or state.state
        for book, trial in job.trials:
            if trial.state == TrialState.RUNNING:
                book.fail(trial, "lost-driver" if found == "run" else cause)
        if found == "fail":
            self._fail(job, cause)
            self._commands.take_fault(job.run, job.unscorable)
            self._outcome.failed.append(job)
            return False
        if state.state in ("failed", "diverged"):
            job.run.update_state(state="pending", cause=None, message=None)
        again = {TrialState.FAIL} if state.state == "done" else {TrialState.FAIL, TrialState.COMPLETE}
        job.trials = [
            (book, book.retry(trial) if trial.state in again else trial) for book, trial in job.trials
        ]
        return True

    def _loop(self) -> None:
        before = len(self._outcome.failed)
        while self._queue or self._active or self._undecided:
            self._check()
            failed = len(self._outcome.failed) - before
            enough = (limit := self._compute.max_failures) is not None and failed >= limit
            enough = enough or self._commands.stop is not None
            if enough and not self._active:
                return
            if self._watch is not None:
                self._queue, over = self._watch.arranged(self._queue)
                self._stopped += over
            while self._launcher.free and not enough:
                ready = next((job for job in self._queue if job.due <= time.time()), None)
                if ready is None:
                    break
                self._queue.remove(ready)
                self._submit(ready)
            self._take_notes()
            self._progress.update(self._active.values())

    def _submit(self, job: Job) -> None:
        if read_json(job.run.path / "spec.json") != job.document:
            job.run.write_spec(job.document)
        job.run.set_damaged_aside()
        self._start(job)
        self._active[job.run.path] = job
        self._launcher.submit(job)

    def _take_notes(self, stopping: bool = False) -> None:
        """Handle the jobs that have ended."""
        for ended in self._launcher.wait(0.5):
            self._undecided.append((0.0, self._active.pop(ended.run), ended))
        for line in self._launcher.told():
            self._progress.told(line)
        now = time.time()
        due = [item for item in self._undecided if item[0] <= now]
        self._undecided = [item for item in self._undecided if item[0] > now]
        for _, job, ended in due:
            if stopping:
                ended = ended.model_copy(update={"exit": "stopped"})
            self._act(job, ended, self._decide(job, ended))

    def _decide(self, job: Job, ended: Ended) -> Action:
        end_left_behind(job.run)
        unscorable = job.unscorable
        facts: dict[str, Any] = {
            "retries_left": job.retries < self._compute.retries,
            "divisible": job.divisible,
            "unscorable": unscorable and unscorable.cause,
        }
        try:
            with job.run.lock():
                state = job.run.state
                action = decide(state, ended.exit, scored=job.scored, **facts)
                if action.becomes is not None:
                    told = state.state == "failed" and state.cause == action.cause
                    message = state.message if told else ended.message or state.message
                    job.run.update_state(state=action.becomes, cause=action.cause, message=message)
                return action
        except RunLockedError:
            return decide(job.run.state, ended.exit, scored=job.scored, locked=True, **facts)

    def _act(self, job: Job, ended: Ended, action: Action) -> None:
        state, stop = job.run.state, self._commands.stop
        match action.then:
            case "done":
                self._outcome.trained += 1
                self._progress.ended(job, self._close(job), final=True)
            case "fail":
                cause = str(action.cause)
                self._fail(job, cause)
                self._outcome.failed.append(job)
                unscorable = job.unscorable
                what = "done, evaluation failed" if unscorable else state.state
                why = (unscorable or state).message or ended.message or "see its log.txt"
                self._progress.ended(job, ": ".join(dict.fromkeys((what, cause, why))), final=True)
                self._commands.take_fault(job.run, unscorable)
            case "retry":
                self._retry(job, str(action.cause), action.smaller)
            case "requeue":
                self._queue.append(job)
            case "wait":
                if not job.waits:
                    self._progress.ended(job, "waiting: another process still holds the run", final=False)
                job.waits = True
                self._undecided.append((time.time() + LOCKED_PAUSE, job, ended))
            case "leave":
                self._fail(job, str(action.cause))
                self._queue.append(job)
        if self._commands.stop is not None and stop is None:
            self._progress.told(self._commands.stop)

    def _retry(self, job: Job, cause: str, smaller: bool) -> None:
        pause = 2.0**job.retries
        job.retries += 1
        job.due = time.time() + pause
        note = f"{cause}; attempt {job.retries + 1} in {pause:.0f} s"
        if smaller:
            now, most = micro_batches(job.document, job.accumulation)
            job.accumulation = min(2 * now, most)
            note += f", {job.accumulation} micro-batches a step"
        for index, (book, trial) in enumerate(job.trials):
            book.fail(trial, cause)
            job.trials[index] = (book, book.retry(trial))
        self._queue.append(job)
        self._progress.ended(job, note, final=False)

    def _start(self, job: Job) -> None:
        for book, trial in job.trials:
            book.start(trial)

    def _close(self, job: Job) -> str:
        """Record a run that is done and scored. Returns how it ended."""
        keys = [trial.key for _, trial in job.trials]
        if job.metric and (wrong := self._commands.twin(keys, job.scores)):
            self._fail(job, train_command.SAME)
            self._outcome.failed.append(job)
            return f"done, {wrong}"
        self._outcome.done.append(job)
        if self._watch is not None:
            self._watch.scored(job.run)
        value, name = job.run.state.val_pesq_wb, "validation PESQ"
        if value is None and job.metric is not None:
            name = train_command.value_name(job.metric)
            value = train_command.test_mean(job.scores, job.metric)
        if value is None:
            self._fail(job, f"{name} could not be computed")
            return f"done, {name} not computed"
        curve = {
            line["step"]: line["val/pesq_wb"]
            for line in job.run.metrics()
            if line.get("val/pesq_wb") is not None
        }
        for index, (book, trial) in enumerate(job.trials):
            former = trial.attributes.get("value", name) if job.metric is not None else name
            if trial.state == TrialState.FAIL or (trial.state == TrialState.COMPLETE and former != name):
                trial = book.retry(trial)
                job.trials[index] = (book, trial)
            book.complete(trial, value, curve, None if job.metric is None else name)
        problem = job.run.state.curve_problem
        return f"done, {name} {value:.2f}" + (f"; no curve: {problem}" if problem else "")

    def _fail(self, job: Job, cause: str) -> None:
        for book, trial in job.trials:
            book.fail(trial, cause)

    def _wind_down(self) -> None:
        """After Ctrl-C: let the runs on slots write their checkpoints."""
        with suppress(KeyboardInterrupt):
            self._launcher.stop()
            deadline = time.time() + STOP_SECONDS
            while self._active and time.time() < deadline:
                self._take_notes(stopping=True)
