"""`ablate run` and `ablate retry`: plan, audit, tune, train, report, mirror."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from ablate.ablations.grid import AnyCell
from ablate.ablations.runspec import run_path
from ablate.models.errors import InputError, listed, plural
from ablate.models.plugins import load_planned
from ablate.training.data.corpus import Corpus
from ablate.training.rundir import RunDir

from . import train_command, tune
from .compute import Compute
from .driver import Driver, DriverProgress, Outcome, joined, plan_jobs
from .energy import metered
from .imported import accept, unaccepted
from .launchers import LAUNCHERS
from .lease import Lease, hold
from .plan import (
    AuditRecord,
    Plan,
    check_results,
    former,
    is_done,
    lacks_weights,
    load,
    make,
    merge,
    save,
    study_path,
)
from .reach import ReachWatch
from .rerun import set_aside
from .sequential import HalfWidthTarget
from .study import Study
from .tracking import TrackerProcess
from .trials import open_storage, plan_book, study_key

Runs = dict[float, set[tuple[str, int]]]
"""Step fraction -> (name of a cell, seed) of the wanted runs."""


class RefusedError(Exception):
    """The audit found an error that is not waived, so nothing was trained."""


@dataclass
class Session:
    """Carries out studies.

    Attributes:
        audit: audits a plan before training. None skips the audit, which the plan records.
        report: writes the study's report after the runs, before the last pass of the mirror.
        use_imported: whether to accept runs that another study imported.
        say: shows a line to the user.
        command: the command line, which the plan records.
    """

    root: Path
    audit: Callable[[Plan, Corpus], AuditRecord] | None
    report: Callable[[Plan], None]
    say: Callable[[str], None]
    progress: DriverProgress = field(default_factory=DriverProgress)
    command: str = ""
    use_imported: bool = False
    _planned: Plan | None = field(default=None, init=False)

    def run(self, study: Study) -> tuple[Plan, Outcome]:
        """Carry out a study to its end.

        Raises:
            PlanChangedError: a study of that name has another plan.
            StudyHeldError: another driver holds the study.
            RefusedError: the audit found an error that is not waived, or a run is imported and not accepted.
            InputError: the study or its data is not valid.
        """
        plan, corpus = make(study, self.root)
        folder = study_path(self.root, plan.name)
        self._planned = plan
        with hold(folder) as lease:
            old = load(self.root, plan.name) if (folder / "plan.json").exists() else None
            if old is not None:
                plan = merge(old, plan, self.root)
            runs = {
                at.step_fraction: {
                    (cell.name, seed)
                    for cell, seed in at.runs
                    if seed in study.seeds or study.target_half_width is not None
                }
                for at in plan.every_step_fraction()
                if at.step_fraction in (1.0, *study.step_fractions)
            }
            self._check(plan, runs)
            if plan.train is not None:
                train_command.keep_code(plan.train, study.file, self.root)
                for line in train_command.shown(plan.train, self.root) if old is None else ():
                    self.say(line)
            done = (is_done(self.root, *run) for run in _asked(plan, runs))
            if old is None or not all(done):
                plan = self._audited(plan, corpus)
            grown = old is None or (old.cells, old.changes) != (plan.cells, plan.changes)
            rule = study.target_half_width and (study.target_half_width, study.max_seeds)
            return self._train(plan, runs, lease, study.compute, grown=grown, narrow=rule or None)

    def retry(
        self, name: str, compute: Compute, cells: Collection[str] = (), retrain: bool = False
    ) -> tuple[Plan, Outcome]:
        """Train or score the failed and missing runs of a study, and retrain all runs of `cells`.

        Args:
            retrain: retrain all runs, if this version would give other results than those that exist.

        Raises:
            ResultsChangedError: this version would give other results, and `retrain` is not set.
            StudyHeldError: another driver holds the study, or a process is writing a run of `cells`.
            InputError: there is no such study or cell.
        """
        folder = study_path(self.root, name)
        with hold(folder) as lease:
            plan = self._planned = load(self.root, name)
            load_planned(plan.plugins)
            if retrain and plan.former_results is not None:
                kept = plan.model_copy(update={"name": former(plan)})
                save(kept, self.root)
                self.say(f"the previous results are kept as study {kept.name}")
                plan = plan.signed()
            check_results(plan)
            chosen = [plan.cell(cell) for cell in cells]
            runs = {
                at.step_fraction: {(cell.name, seed) for cell, seed in at.runs}
                for at in plan.every_step_fraction()
            }
            self._check(plan, runs, aside={cell.name for cell in chosen})
            again = compute.model_copy(update={"retry_failed": True})
            return self._train(plan, runs, lease, again, grown=bool(chosen), aside=chosen)

    def _check(self, plan: Plan, runs: Runs, aside: Collection[str] = ()) -> None:
        """Check the existing runs, except those that are set aside.

        Raises:
            InputError: a finished run must be scored, but its weights are missing. Retraining could give
                other weights, and the run would mix scores of both.
            RefusedError: a run was imported with another study and is not accepted yet.
        """
        kept = [(cell, seed) for cell, seed in _asked(plan, runs) if cell.name not in aside]
        lost = dict.fromkeys(cell.name for cell, seed in kept if lacks_weights(self.root, cell, seed))
        if lost:
            again = " ".join(f"--cell {name}" for name in lost)
            raise InputError(
                f"{', '.join(lost)}: trained, but without the scores that this study asks for, and the "
                f"weights are not under {self.root} (imports do not include them); to train again, run "
                f"ablate retry STUDY {again} with a study that has these cells"
            )
        there = [(cell.name, RunDir(run_path(self.root, cell.signatures[seed]))) for cell, seed in kept]
        foreign = [(name, run) for name, run in there if unaccepted(run, plan.name)]
        if foreign and not self.use_imported:
            names = listed(list(dict.fromkeys(name for name, _ in foreign)))
            raise RefusedError(
                f"{plural(len(foreign), 'run')} of {names} were imported with another study, so their "
                "scores were not measured here; accept them with --use-imported, or train them here: "
                "ablate retry STUDY --cell CELL"
            )
        for _, run in foreign:
            accept(run, plan.name)

    def _audited(self, plan: Plan, corpus: Corpus) -> Plan:
        if self.audit is None:
            return plan
        record = self.audit(plan, corpus)
        errors = [f for f in record.findings if f["severity"] == "error" and f["code"] not in record.waived]
        if errors:
            codes = sorted({finding["code"] for finding in errors})
            raise RefusedError(
                f"the audit found {plural(len(errors), 'error')} ({', '.join(codes)}); fix it, "
                f"or accept them with --waive {','.join(codes)}"
            )
        return plan.model_copy(update={"audit": record})

    def _watched(self, plan: Plan, watch: ReachWatch, lease: Lease) -> Plan:
        """The plan, with findings from scores added to those of the audit."""
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
        """Sentence on the number of finished runs; empty before the study is planned."""
        if self._planned is None:
            return ""
        every = [is_done(self.root, *run) for at in self._planned.every_step_fraction() for run in at.runs]
        return f"{sum(every)} of {plural(len(every), 'run')} are done; the others keep their last checkpoint"

    def _train(
        self,
        plan: Plan,
        runs: Runs,
        lease: Lease,
        compute: Compute,
        *,
        grown: bool,
        narrow: tuple[float, int] | None = None,
        aside: Iterable[AnyCell] = (),
    ) -> tuple[Plan, Outcome]:
        """Save the plan, and train its runs.

        Args:
            grown: whether the report changes even if nothing is trained.
            narrow: target half-width, and maximum number of seeds of a cell.
            aside: cells whose runs are set aside first.
        """
        compute = compute.model_copy(update={"gpus_each": plan.program.gpus})
        folder = study_path(self.root, plan.name)
        if self.command and self.command not in plan.commands:
            plan = plan.model_copy(update={"commands": (*plan.commands, self.command)})
        storage = open_storage(folder, compute.storage)
        for line in set_aside(plan, aside, self.root):
            self.say(line)
        self._save(plan, lease)
        tracker = TrackerProcess(self.root, plan.name, compute.tracking_uri)
        launcher = LAUNCHERS[compute.launcher].open(folder, compute)
        watch = ReachWatch(plan, self.say)
        driver = Driver(launcher, compute, self.progress, lease.check, watch)
        key = study_key(plan, self.root, compute.storage)

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
                outcome = driver.run(joined(tune.jobs(plan, self.root, storage, lease.check, key)))
                if outcome.interrupted or outcome.left:
                    return plan, outcome
                plan = tune.settle(plan, outcome.done)
                self._save(plan, lease)
            rule = narrow and HalfWidthTarget(*narrow, launcher.slots)
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
                runs = dict.fromkeys(runs, added)
                self._check(plan, runs)


def _asked(plan: Plan, runs: Runs) -> Iterator[tuple[AnyCell, int]]:
    """The wanted runs of a plan, at every step budget."""
    for at in plan.every_step_fraction():
        wanted = runs.get(at.step_fraction, set())
        yield from ((cell, seed) for cell, seed in at.runs if (cell.name, seed) in wanted)


@contextmanager
def ending(*steps: Callable[[], None]) -> Iterator[None]:
    """Run all steps after the block, also if the block or a step fails.

    The first error is raised, with the others as notes.
    """
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
                first.add_note(f"{type(error).__name__} again at the end: {error}")
    if first is not None:
        raise first
