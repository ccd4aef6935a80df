"""One call of `ablate run`: plan, audit, tune, train, report, mirror."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from optuna.storages import BaseStorage

from ablate.models.errors import InputError, listed, plural
from ablate.training.data.corpus import Corpus

from . import train_command, tune
from .driver import Driver, DriverProgress, Outcome, joined, plan_jobs
from .energy import metered
from .imported import accept, unaccepted
from .launchers import Launcher
from .lease import Lease, hold
from .plan import (
    AuditRecord,
    Plan,
    ResultsChangedError,
    extend,
    former,
    is_done,
    lacks_weights,
    load,
    make,
    merge,
    run_dirs,
    save,
    study_path,
)
from .reach import ReachWatch
from .request import Request
from .rerun import set_aside
from .retry_policy import Policy
from .sequential import HalfWidthTarget, check_half_width
from .tracking import TrackerProcess
from .trials import open_storage, plan_book, study_key

Runs = dict[float, set[tuple[str, int]]]
"""By length, cells by name with a seed each."""


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
        use_imported: take runs that another study imported.
        target_half_width: add runs until the half-width of what is judged, and of the gap, is at most this.
        max_seeds: of a cell, on the way there.
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
    use_imported: bool = False
    target_half_width: float | None = None
    max_seeds: int = 12
    _planned: Plan | None = field(default=None, init=False)

    def run(self, request: Request) -> tuple[Plan, Outcome]:
        """Carry out a request to its end.

        Raises:
            PlanChangedError: a study of that name has another plan.
            StudyHeldError: another driver holds the study, or has taken it over, or writes a run of `rerun`.
            RefusedError: the audit refuses.
            InputError: the request or its data is wrong.
        """
        if self.target_half_width is not None:
            check_half_width(self.target_half_width, self.max_seeds)
        plan, corpus = make(request, self.root)
        folder = study_path(self.root, plan.name)
        self._planned = plan
        with hold(folder) as lease:
            old = load(self.root, plan.name) if (folder / "plan.json").exists() else None
            if old is not None:
                plan = self._joined(old, plan)
            grown = old is None or (old.cells, old.changes) != (plan.cells, plan.changes)
            runs = self._asked(plan, request)
            self._check_weights(plan, runs)
            self._check_imported(plan, runs)
            if self.command and self.command not in plan.commands:
                plan = plan.model_copy(update={"commands": (*plan.commands, self.command)})
            if plan.train is not None:
                train_command.keep_code(plan.train, request.file, self.root)
                for line in train_command.shown(plan.train, self.root) if old is None else ():
                    self.say(line)
            if old is None or not all(self._finished(plan, runs)):
                plan = self._audited(plan, corpus)
            storage = open_storage(folder, self.storage_url)
            again = [plan.cell(name) for name in self.rerun]
            for line in set_aside(plan, again, self.root):
                self.say(line)
            self._save(plan, lease)
            return self._train(plan, grown, runs, (1.0, *request.step_fractions), lease, folder, storage)

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
        return extend(new, old.seeds, self.root, old.step_fractions)

    def _asked(self, plan: Plan, request: Request) -> Runs:
        """What this call trains: the seeds and lengths that it names, and all that `rerun` sets aside."""
        aside, asked = self._aside(plan), Runs()
        for at in plan.every_step_fraction():
            named = at.step_fraction == 1.0 or at.step_fraction in request.step_fractions
            asked[at.step_fraction] = {
                (cell.name, seed)
                for cell, seed in at.runs
                if cell.signatures[seed] in aside
                or (named and (seed in request.seeds or self.target_half_width is not None))
            }
        return asked

    def _aside(self, plan: Plan) -> set[str]:
        """The trainings that `rerun` sets aside."""
        return {
            signature
            for at in plan.every_step_fraction()
            for name in self.rerun
            for signature in at.cell(name).signatures.values()
        }

    def _check_weights(self, plan: Plan, runs: Runs) -> None:
        """Raises InputError where a finished training is to be scored and its weights are not there: another
        machine may train to others, and one run would have scores of both."""
        aside = self._aside(plan)
        lost = dict.fromkeys(
            cell.name
            for at in plan.every_step_fraction()
            for cell, seed in at.runs
            if (cell.name, seed) in runs[at.step_fraction]
            and cell.signatures[seed] not in aside
            and lacks_weights(at, self.root, cell, seed)
        )
        if lost:
            again = " ".join(f"--rerun {name}" for name in lost)
            raise InputError(
                f"{', '.join(lost)}: trained, but not scored as asked for here, and the weights are not "
                f"under {self.root} (an import brings none); {again} trains anew"
            )

    def _check_imported(self, plan: Plan, runs: Runs) -> None:
        """Raises RefusedError where a finished run came with another study, which is not accepted yet: its
        scores are the sender's word."""
        aside = self._aside(plan)
        foreign = [
            (cell, run)
            for at in plan.every_step_fraction()
            for (cell, seed), run in run_dirs(at, self.root).items()
            if (cell, seed) in runs.get(at.step_fraction, ())
            if run.signature not in aside and unaccepted(run, plan.name)
        ]
        if foreign and not self.use_imported:
            names = listed(list(dict.fromkeys(name for name, _ in foreign)))
            raise RefusedError(
                f"{plural(len(foreign), 'run')} of {names} came with an imported study: their scores are the "
                "sender's word; give --use-imported to take them, or --rerun CELL to train here"
            )
        for _, run in foreign:
            accept(run, plan.name)

    def _finished(self, plan: Plan, runs: Runs) -> Iterable[bool]:
        return (
            is_done(at, self.root, cell, seed)
            for at in plan.every_step_fraction()
            for cell, seed in at.runs
            if (cell.name, seed) in runs[at.step_fraction]
        )

    def _audited(self, plan: Plan, corpus: Corpus) -> Plan:
        if self.audit is None:
            return plan
        record = self.audit(plan, corpus)
        errors = [f for f in record.findings if f["severity"] == "error" and f["code"] not in record.waived]
        if errors:
            codes = sorted({finding["code"] for finding in errors})
            raise RefusedError(
                f"the audit found {plural(len(errors), 'error')} ({', '.join(codes)}); mend it, "
                f"or accept them with --waive {','.join(codes)}"
            )
        return plan.model_copy(update={"audit": record})

    def _watched(self, plan: Plan, watch: ReachWatch, lease: Lease) -> Plan:
        """The plan with what the scores showed among the audit's findings."""
        known = {(each["code"], each["where"]) for each in plan.audit.findings}
        new = [f.model_dump(mode="json") for f in watch.findings if (f.code, f.where) not in known]
        if new:
            audit = plan.audit.model_copy(update={"findings": (*plan.audit.findings, *new)})
            plan = plan.model_copy(update={"audit": audit})
            self._save(plan, lease)
        return plan

    def _save(self, plan: Plan, lease: Lease) -> None:
        lease.check()
        save(plan, self.root)

    @property
    def kept(self) -> str:
        """What is on disk of the study at this moment; empty before it is planned."""
        if self._planned is None:
            return ""
        every = [
            is_done(at, self.root, *run) for at in self._planned.every_step_fraction() for run in at.runs
        ]
        return f"{sum(every)} of {plural(len(every), 'run')} are done, the others keep their last checkpoint"

    def _train(
        self,
        plan: Plan,
        grown: bool,
        runs: Runs,
        fractions: tuple[float, ...],
        lease: Lease,
        folder: Path,
        storage: BaseStorage,
    ) -> tuple[Plan, Outcome]:
        tracker = TrackerProcess(self.root, plan.name, self.tracking_uri)
        launcher = self.launcher(folder)
        watch = ReachWatch(plan, self.say)
        driver = Driver(self.root, launcher, self.policy, self.progress, lease.check, watch)
        key = study_key(plan, self.root, self.storage_url)

        def report() -> None:
            if worked or not (folder / "report").exists():
                self.report(plan)

        def stop_tracker() -> None:
            mirrored = tracker.stop()
            if not mirrored.complete:
                self.say(mirrored.message)

        worked, total = True, Outcome()
        meter = metered(folder) if launcher.here else nullcontext()
        with ending(launcher.close, report, stop_tracker), meter:
            tracker.start()
            if not plan.tuned:
                self.say(f"tuning: {plan.tune.trials} trials for each of {len(plan.cells)} cells")  # type: ignore[union-attr]
                outcome = driver.run(tune.jobs(plan, self.root, storage, lease.check, key))
                if outcome.interrupted or outcome.left:
                    return plan, outcome
                plan = tune.settle(plan, outcome.done)
                self._save(plan, lease)
            rule = self.target_half_width and HalfWidthTarget(
                self.target_half_width, self.max_seeds, launcher.slots
            )
            if rule and (line := rule.outlook(plan)):
                self.say(line)
            while True:
                outcome = driver.run(
                    joined(
                        job
                        for at in plan.every_step_fraction()
                        if (asked := runs.get(at.step_fraction))
                        for job in plan_jobs(at, self.root, plan_book(storage, at, lease.check, key), asked)
                    )
                )
                total.add(outcome)
                plan = self._watched(plan, watch, lease)
                worked = grown or bool(rule or total.trained or total.failed or total.left)
                if not rule or outcome.interrupted or outcome.left:
                    return plan, total
                before = {(cell.name, seed) for cell, seed in plan.runs}
                plan = rule.after_look(plan, self.root, self.say)
                self._save(plan, lease)
                added = {(cell.name, seed) for cell, seed in plan.runs} - before
                if not added:
                    return plan, total
                runs = dict.fromkeys(fractions, added)
                self._check_imported(plan, runs)


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
