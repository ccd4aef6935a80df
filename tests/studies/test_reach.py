"""What scores show while a study trains: the driver's own loop, a launcher that writes planted scores."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ablate.studies.driver import Driver, plan_jobs
from ablate.studies.launchers import Ended, Launcher
from ablate.studies.plan import AuditRecord
from ablate.studies.reach import ReachWatch
from ablate.studies.trials import open_storage, plan_book


class PlantedLauncher(Launcher):
    """Ends every task at once; `same(cell, seed)` names what its scores are made from."""

    def __init__(self, plan, same):
        self.slots, self.active, self.trained = 1, [], []
        self._same = same
        self._of = {cell.signatures[seed]: (cell.name, seed) for cell, seed in plan.runs}

    @property
    def free(self):
        return self.slots - len(self.active)

    def submit(self, task):
        self.active.append(task)

    def wait(self, timeout):
        active, self.active = self.active, []
        return [self.end(task) for task in active]

    def end(self, task):
        run = task.run
        cell, seed = self._of[run.signature]
        self.trained.append((cell, seed))
        rng = np.random.default_rng(list(f"{self._same(cell)} {seed}".encode()))
        for evaluation in task.evaluations:
            path = run.scores_path(evaluation)
            path.parent.mkdir(exist_ok=True)
            names = [f"u{i}" for i in range(9)]
            pd.DataFrame({"utterance": names, "pesq_wb": rng.normal(2, 0.2, 9)}).to_parquet(path)
        run.append_metrics({"step": 10, "val/pesq_wb": 2.1})
        run.update_state(state="done", attempts=1, val_pesq_wb=2.1, cause=None)
        return Ended(run=task.run.path)

    def stop(self):
        pass

    def close(self):
        pass


def book_of(plan, root):
    return plan_book(open_storage(root / "studies" / plan.name), plan)


def drive(plan, root, same):
    said = []
    watch = ReachWatch(plan, said.append)
    launcher = PlantedLauncher(plan, same)
    outcome = Driver(launcher, watch=watch).run(plan_jobs(plan, root, book_of(plan, root)))
    return outcome, launcher.trained, watch.findings, said


def without(factor):
    """Scores that a factor does not reach: those of the cell in which it is off."""

    def same(cell):
        return "+".join(part for part in cell.split("+") if part != factor) or "base"

    return same


def test_the_cells_of_a_factor_that_reaches_nothing_stop_and_the_others_go_on(make_plan, tmp_path):
    plan = make_plan("bidirectional,decoder4x", seeds=(1, 2, 3))
    outcome, trained, findings, said = drive(plan, tmp_path, without("decoder4x"))
    (finding,) = findings
    assert (finding.code, finding.severity, finding.where) == ("A204", "error", "decoder4x")
    on = {cell.name for cell in plan.cells if cell.levels.get("decoder4x") == "on"}
    off = set(plan.cell_names) - on
    assert {seed for cell, seed in trained if cell in on} == {1}
    assert all((cell, seed) in trained for cell in off for seed in (1, 2, 3))
    assert {entry.key[0] for job in outcome.left for _, entry in job.trials} == on
    assert len(outcome.left) == 4
    assert any("the factor's other pairs of cells are trained next" in line for line in said)
    assert any(line.startswith("A204 decoder4x reaches nothing") and "stop" in line for line in said)


def test_what_tells_comes_first(make_plan, tmp_path):
    plan = make_plan("bidirectional,decoder4x", seeds=(1,))
    jobs = {job.trials[0][1].key[0]: job for job in plan_jobs(plan, tmp_path, book_of(plan, tmp_path))}
    launcher, watch = PlantedLauncher(plan, without("decoder4x")), ReachWatch(plan, lambda _: None)
    queue = [jobs["baseline"], jobs["bidirectional"], jobs["bidirectional+decoder4x"]]
    assert watch.arranged(queue) == (queue, [])
    for cell in ("base", "decoder4x"):
        jobs[cell].run.write_spec(jobs[cell].document)
        launcher.end(jobs[cell])
        watch.scored(jobs[cell].run)
    assert watch.arranged(queue) == ([*queue[1:], queue[0]], [])


def test_waived_it_is_said_and_nothing_stops(make_plan, tmp_path):
    plan = make_plan("bidirectional,decoder4x", seeds=(1, 2), audit=AuditRecord(waived=("A204",)))
    outcome, trained, findings, said = drive(plan, tmp_path, without("decoder4x"))
    assert len(trained) == 10
    assert not outcome.left
    assert len(findings) == 1
    assert any("(waived)" in line for line in said)


def test_one_equal_pair_stops_nothing(make_plan, tmp_path):
    plan = make_plan("bidirectional,decoder4x", seeds=(1, 2))

    def same(cell):
        return cell if "bidirectional" in cell else without("decoder4x")(cell)

    outcome, trained, findings, _ = drive(plan, tmp_path, same)
    assert (len(trained), findings, outcome.left) == (10, [], [])


def test_shared_trainings_do_not_count(make_plan, tmp_path):
    plan = make_plan("bidirectional,pcs", seeds=(1,))
    _, _, findings, _ = drive(plan, tmp_path, lambda cell: cell)
    assert findings == []


def test_a_study_that_goes_on_finds_it_again_and_trains_nothing_more(make_plan, tmp_path):
    plan = make_plan("bidirectional,decoder4x", seeds=(1, 2))
    drive(plan, tmp_path, without("decoder4x"))
    _, trained, findings, _ = drive(plan, tmp_path, without("decoder4x"))
    assert (trained, len(findings)) == ([], 1)


def test_rounded_scores_tell_nothing(make_plan, tmp_path, monkeypatch):
    plan = make_plan("bidirectional,decoder4x", seeds=(1,))
    write = pd.DataFrame.to_parquet

    def rounded(self, path):
        write(self.round(2), path)

    monkeypatch.setattr(pd.DataFrame, "to_parquet", rounded)
    _, trained, findings, _ = drive(plan, tmp_path, without("decoder4x"))
    assert (len(trained), findings) == (5, [])
