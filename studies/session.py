"""One call of `ablate run`: plan, audit, tune, train, report, mirror."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from optuna.storages import BaseStorage

from ablate.models.errors import InputError
from ablate.training.data.corpus import Corpus

from . import own, tune
from .driver import Driver, DriverProgress, Outcome, Policy, joined, plan_jobs
from .launchers import Launcher
from .lease import Lease, hold
from .plan import (
    AuditRecord,
    Look,
    Plan,
    ResultsChangedError,
    extend,
    former,
    is_done,
    load,
    make,
    merge,
    run_dirs,
    save,
    study_path,
)
from .request import Request
from .rerun import set_aside
from .scores import half_width
from .tracking import TrackerProcess
from .trials import open_storage, plan_book, study_key

LOST = 4
"""Seeds of a cell that failed or diverged, after which no more are added for the one that did not."""


class RefusedError(Exception):
    """The audit found an error that is not waived; nothing was trained."""


@dataclass
class Session:
    """How a request is carried out, beyond what is asked for.

    Attributes:
        launcher: makes the launcher, given the study's folder.
        audit: finds faults before training; none skips it, which the plan records.
        report: writes the study's report; called when the runs have ended, before the last mirror pass.
        retrain: train a study again that an earlier version of this code trained to other results.
        until_width: add seeds until the half-width of every main effect's interval is at most this.
        say: tells the user a line.
        command: the command line, which the plan keeps.
    """

    root: Path
    launcher: Callable[[Path], Launcher]
    audit: Callable[[Plan, Corpus], AuditRecord] | None
    report: Callable[[Plan], None]
    say: Callable[[str], None]
    progress: DriverProgress = field(default_factory=DriverProgress)
    policy: Policy = field(default_factory=Policy)
    storage_url: str | None = None
    tracking_uri: str | None = None
    command: str = ""
    rerun: tuple[str, ...] = ()
    retrain: bool = False
    until_width: float | None = None
    max_seeds: int = 12

    def run(self, request: Request) -> tuple[Plan, Outcome]:
        """Carry out a request to its end.

        Raises:
            PlanChangedError: a study of that name has another plan.
            StudyHeldError: another driver holds the study, or has taken it over, or writes a run of `rerun`.
            RefusedError: the audit refuses.
            InputError: the request or its data is wrong.
        """
        plan, corpus = make(request, self.root)
        folder = study_path(self.root, plan.name)
        with hold(folder) as lease:
            known = (folder / "plan.json").exists()
            if known:
                plan = self._joined(load(self.root, plan.name), plan)
            if self.command and self.command not in plan.commands:
                plan = plan.model_copy(update={"commands": (*plan.commands, self.command)})
            if plan.train is not None:
                own.keep_code(plan.train, request.file, self.root)
                for line in own.shown(plan.train) if not known else ():
                    self.say(line)
            seeds = request.seeds if self.until_width is None else plan.seeds
            lengths = (1.0, *request.at_lengths)
            if not known or not all(self._finished(plan, seeds, lengths)):
                plan = self._audited(plan, corpus)
            storage = open_storage(folder, self.storage_url)
            again = [plan.cell(name) for name in self.rerun]
            for line in set_aside(plan, again, self.root):
                self.say(line)
            self._save(plan, lease)
            return self._train(plan, seeds, lengths, lease, folder, storage)

    def _joined(self, old: Plan, new: Plan) -> Plan:
        """The plan to go on with; with `retrain` the one asked for where results have changed since."""
        try:
            return merge(old, new, self.root)
        except ResultsChangedError:
            if not self.retrain:
                raise
        kept = old.model_copy(update={"name": former(old)})
        save(kept, self.root)
        self.say(f"the study as it was, with its scores, is {kept.name}")
        return extend(new, old.seeds, self.root, old.lengths)

    def _finished(self, plan: Plan, seeds: Iterable[int], lengths: Iterable[float]) -> Iterable[bool]:
        return (
            is_done(at, self.root, cell, seed)
            for at in map(plan.at, lengths)
            for cell in at.cells
            for seed in seeds
        )

    def _audited(self, plan: Plan, corpus: Corpus) -> Plan:
        if self.audit is None:
            return plan
        record = self.audit(plan, corpus)
        errors = [f for f in record.findings if f["severity"] == "error" and f["code"] not in record.waived]
        if errors:
            codes = sorted({finding["code"] for finding in errors})
            raise RefusedError(
                f"the audit found {len(errors)} errors ({', '.join(codes)}); mend them, "
                f"or accept them with --waive {','.join(codes)}"
            )
        return plan.model_copy(update={"audit": record})

    def _save(self, plan: Plan, lease: Lease) -> None:
        lease.check()
        save(plan, self.root)

    def _train(
        self,
        plan: Plan,
        seeds: tuple[int, ...],
        lengths: tuple[float, ...],
        lease: Lease,
        folder: Path,
        storage: BaseStorage,
    ) -> tuple[Plan, Outcome]:
        tracker = TrackerProcess(self.root, plan.name, self.tracking_uri)
        launcher = self.launcher(folder)
        driver = Driver(self.root, launcher, self.policy, self.progress, lease.check)
        key = study_key(plan, self.root, self.storage_url)

        def report() -> None:
            if worked or not (folder / "report").exists():
                self.report(plan)

        def stop_tracker() -> None:
            mirrored = tracker.stop()
            if not mirrored.complete:
                self.say(mirrored.message)

        worked = True
        with ending(launcher.close, report, stop_tracker):
            tracker.start()
            if not plan.tuned:
                self.say(f"tuning: {plan.tune.trials} trials for each of {len(plan.cells)} cells")  # type: ignore[union-attr]
                outcome = driver.run(tune.jobs(plan, self.root, storage, lease.check, key))
                if outcome.interrupted or outcome.left:
                    return plan, outcome
                plan = tune.settle(plan, outcome.done)
                self._save(plan, lease)
            while True:
                outcome = driver.run(
                    joined(
                        job
                        for at in map(plan.at, lengths)
                        for job in plan_jobs(at, self.root, plan_book(storage, at, lease.check, key), seeds)
                    )
                )
                worked = bool(outcome.trained or outcome.failed or outcome.left)
                plan, seeds = self._look(plan, seeds, outcome, lease)
                if not seeds:
                    return plan, outcome

    def _look(
        self, plan: Plan, seeds: tuple[int, ...], outcome: Outcome, lease: Lease
    ) -> tuple[Plan, tuple[int, ...]]:
        """The seeds to go on with until the intervals are narrow enough; none to stop."""
        if self.until_width is None or outcome.interrupted or outcome.left:
            return plan, ()
        try:
            width = half_width(plan, self.root)
        except InputError as error:
            self.say(f"no look at the intervals: {error}")
            return plan, ()
        look = Look(seeds=len(plan.seeds), half_width=width, wanted=self.until_width, time=time.time())
        plan = plan.model_copy(update={"looks": (*plan.looks, look)})
        shown = "unknown" if width is None else f"{width:.3f}"
        self.say(f"look: {look.seeds} seeds, widest half-width {shown}, wanted {self.until_width}")
        more: tuple[int, ...] = ()
        hopeless = self._hopeless(plan) if width is None else []
        if hopeless:
            self.say(
                f"no width with more seeds either: {', '.join(hopeless)} failed or diverged "
                "at (almost) every seed; see ablate status"
            )
        elif (width is None or width > self.until_width) and len(plan.seeds) < self.max_seeds:
            more = (max(plan.seeds) + 1,)
            plan = extend(plan, more, self.root)
        self._save(plan, lease)
        return plan, more

    def _hopeless(self, plan: Plan) -> list[str]:
        """The cells of which no seed is done, or one beside `LOST` that failed or diverged for good."""
        runs = run_dirs(plan, self.root)
        hopeless = []
        for cell in plan.cells:
            states = [runs[cell.name, seed].state.state for seed in plan.seeds]
            lost = sum(state in ("failed", "diverged") for state in states)
            if lost == len(states) or (lost >= LOST and lost == len(states) - 1):
                hopeless.append(cell.name)
        return hopeless


@contextmanager
def ending(*steps: Callable[[], None]) -> Iterator[None]:
    """A block and what is done after it however it ends: a step that fails skips none of the others and hides
    no earlier error. The first error is raised, with the others as notes."""
    first: BaseException | None = None
    try:
        yield
    except BaseException as error:
        first = error
    for step in steps:
        try:
            step()
        except Exception as error:
            if first is None:
                first = error
            else:
                first.add_note(f"{type(error).__name__} at the end too: {error}")
    if first is not None:
        raise first
