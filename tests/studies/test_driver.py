from __future__ import annotations

import copy
import shutil
import time

import optuna
import pytest
from optuna.trial import TrialState

from ablate.studies import driver as drivers
from ablate.studies.compute import Compute
from ablate.studies.driver import Driver, plan_jobs
from ablate.studies.launchers import Ended, Launcher
from ablate.studies.status import status
from ablate.studies.trials import open_storage, plan_book
from ablate.training.rundir import RunDir, write_json


class ScriptedLauncher(Launcher):
    """Ends every task at once, as a script says: by training signature, one word per attempt, then done."""

    def __init__(self, slots=2, script=None):
        self.slots = slots
        self.script = script or {}
        self.tasks = []
        self.active = []
        self.most = 0
        self.stopped = False

    @property
    def free(self):
        return self.slots - len(self.active)

    def submit(self, task):
        assert self.free
        self.tasks.append(copy.copy(task))  # as its worker was given it
        self.active.append(task)
        self.most = max(self.most, len(self.active))

    def wait(self, timeout):
        for task in self.active:
            if self.script.get(task.run.path.name, [])[:1] == ["interrupt"]:
                self.script.clear()
                raise KeyboardInterrupt
        active, self.active = self.active, []
        if self.stopped:
            return [Ended(run=task.run.path, exit="stopped") for task in active]
        return [self.end(task) for task in active]

    def end(self, task):
        run = task.run
        words = self.script.get(run.signature, [])
        word = words.pop(0) if words else "done"
        attempts = run.state.attempts + 1
        if word == "lost":
            run.update_state(state="running", attempts=attempts)
            return Ended(run=task.run.path, exit="killed", message="worker process ended with -9")
        if word in ("busy", "cancelled", "refused", "preempted"):
            return Ended(run=task.run.path, exit=word)
        if word == "done":
            for evaluation in task.evaluations:
                path = run.scores_path(evaluation)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(b"PAR1" * 3)
            run.append_metrics({"step": 10, "val/pesq_wb": 2.1})
            run.update_state(state="done", attempts=attempts, val_pesq_wb=2.1, cause=None)
        else:
            state = "diverged" if word == "diverged" else "failed"
            run.update_state(state=state, attempts=attempts, cause=word, message=f"it was {word}")
        return Ended(run=task.run.path)

    def stop(self):
        self.stopped = True

    def close(self):
        pass


@pytest.fixture
def no_pause(monkeypatch):
    clock = [0.0]

    def now():
        clock[0] += 10.0
        return clock[0]

    monkeypatch.setattr(drivers.time, "time", now)


def drive(plan, root, launcher, policy=None):
    folder = root / "studies" / plan.name
    jobs = plan_jobs(plan, root, plan_book(open_storage(folder), plan))
    return Driver(launcher, policy).run(jobs)


def trials(root, name="study"):
    return optuna.load_study(storage=open_storage(root / "studies" / name), study_name=name).get_trials()


def states(root):
    return [trial.state.name for trial in trials(root)]


def signature(plan, cell, seed):
    return plan.cell(cell).signatures[seed]


def test_every_cell_and_seed_is_done_once_and_on_record(make_plan, tmp_path):
    plan, launcher = make_plan(), ScriptedLauncher()
    outcome = drive(plan, tmp_path, launcher)
    assert (len(outcome.done), outcome.trained, launcher.most) == (10, 10, 2)
    recorded = trials(tmp_path)
    keys = {(t.user_attrs["cell"], t.user_attrs["seed"]) for t in recorded}
    assert len(recorded) == len(keys) == 10
    assert {t.value for t in recorded} == {2.1}
    assert recorded[0].intermediate_values == {10: 2.1}
    assert {t.params.get("bidirectional") for t in recorded} == {"off", "on", None}


def test_the_same_plan_again_trains_nothing(make_plan, tmp_path):
    drive(make_plan(), tmp_path, ScriptedLauncher())
    again = ScriptedLauncher()
    outcome = drive(make_plan(), tmp_path, again)
    assert (len(outcome.done), outcome.trained, again.tasks) == (10, 0, [])
    assert states(tmp_path) == ["COMPLETE"] * 10


def test_more_seeds_train_only_the_new_ones(make_plan, tmp_path):
    drive(make_plan(), tmp_path, ScriptedLauncher())
    more = ScriptedLauncher()
    drive(make_plan(seeds=(1, 2, 3)), tmp_path, more)
    assert len(more.tasks) == 5
    assert states(tmp_path) == ["COMPLETE"] * 15


def test_evaluation_only_factor_shares_the_training(make_plan, tmp_path):
    plan, launcher = make_plan("bidirectional,pcs", seeds=(1,)), ScriptedLauncher()
    drive(plan, tmp_path, launcher)
    assert len(launcher.tasks) == 3
    assert sorted(len(task.evaluations) for task in launcher.tasks) == [1, 2, 2]
    assert states(tmp_path) == ["COMPLETE"] * 5


def test_a_lost_worker_is_replaced_and_the_retry_names_the_trial_it_retries(make_plan, tmp_path, no_pause):
    plan = make_plan(seeds=(1,))
    launcher = ScriptedLauncher(script={signature(plan, "base", 1): ["lost", "preempted"]})
    outcome = drive(plan, tmp_path, launcher)
    assert (len(outcome.done), len(outcome.failed)) == (5, 0)
    base = [t for t in trials(tmp_path) if t.user_attrs["cell"] == "base"]
    assert [t.state.name for t in base] == ["FAIL", "FAIL", "COMPLETE"]
    assert [t.user_attrs.get("retry_of") for t in base] == [None, base[0].number, base[1].number]
    assert base[0].user_attrs["cause"] == "lost-worker"


def test_retries_end(make_plan, tmp_path, no_pause):
    plan = make_plan(seeds=(1,))
    launcher = ScriptedLauncher(script={signature(plan, "base", 1): ["lost"] * 99})
    outcome = drive(plan, tmp_path, launcher, Compute(retries=2))
    assert [job.name for job in outcome.failed] == ["base seed 1"]
    assert sum(task.run.path.name == signature(plan, "base", 1) for task in launcher.tasks) == 3
    assert RunDir(outcome.failed[0].run.path).state.cause == "lost-worker"


def test_out_of_memory_is_tried_again_in_smaller_micro_batches(make_plan, tmp_path, no_pause):
    plan = make_plan(seeds=(1,))
    launcher = ScriptedLauncher(script={signature(plan, "base", 1): ["out-of-memory"] * 3})
    drive(plan, tmp_path, launcher)
    tasks = [task for task in launcher.tasks if task.run.path.name == signature(plan, "base", 1)]
    assert [task.accumulation for task in tasks] == [None, 2, 4, 6]


@pytest.mark.parametrize("cause", ["diverged", "data", "configuration", "error"])
def test_what_would_fail_again_is_not_retried(make_plan, tmp_path, cause):
    plan = make_plan(seeds=(1,))
    script = {signature(plan, "base", 1): [cause]}
    outcome = drive(plan, tmp_path, ScriptedLauncher(script=script))
    assert (len(outcome.done), len(outcome.failed)) == (4, 1)
    again = ScriptedLauncher()
    assert len(drive(plan, tmp_path, again).failed) == 1
    assert again.tasks == []
    assert len(drive(plan, tmp_path, again, Compute(retry_failed=True)).done) == 5
    assert [t.state.name for t in trials(tmp_path) if t.user_attrs["cell"] == "base"] == ["FAIL", "COMPLETE"]


def test_a_dead_driver_leaves_nothing_running(make_plan, tmp_path):
    plan = make_plan(seeds=(1,))
    book = plan_book(open_storage(tmp_path / "studies" / plan.name), plan)
    for entry in book.trials.values():
        book.start(entry)
    done = RunDir(tmp_path / "runs" / signature(plan, "base", 1))
    done.write_spec({})
    done.scores_path(plan.cell("base").evaluations[1]).parent.mkdir()
    done.scores_path(plan.cell("base").evaluations[1]).write_bytes(b"PAR1" * 3)
    done.update_state(state="done", val_pesq_wb=2.0)
    launcher = ScriptedLauncher()
    outcome = drive(plan, tmp_path, launcher)
    assert (len(outcome.done), len(launcher.tasks)) == (5, 4)
    finished = [t for t in trials(tmp_path) if t.state == TrialState.COMPLETE]
    assert len(finished) == 5
    assert all(t.state.is_finished() for t in trials(tmp_path))
    assert {t.user_attrs.get("cause") for t in trials(tmp_path)} == {None, "lost-driver"}


def test_a_run_that_was_set_aside_is_a_new_trial(make_plan, tmp_path):
    plan = make_plan(seeds=(1,))
    drive(plan, tmp_path, ScriptedLauncher())
    shutil.rmtree(tmp_path / "runs" / signature(plan, "base", 1))
    assert drive(plan, tmp_path, ScriptedLauncher()).trained == 1
    base = [t for t in trials(tmp_path) if t.user_attrs["cell"] == "base"]
    assert [(t.state.name, t.user_attrs.get("retry_of")) for t in base] == [
        ("COMPLETE", None),
        ("COMPLETE", 0),
    ]
    assert drive(plan, tmp_path, ScriptedLauncher()).trained == 0
    assert len(trials(tmp_path)) == 6


@pytest.mark.parametrize("word", ["lost", "preempted", "cancelled", "refused", "busy"])
def test_the_word_of_the_run_counts_whatever_the_launcher_reports(make_plan, tmp_path, no_pause, word):
    plan = make_plan(seeds=(1,))

    class Contradicting(ScriptedLauncher):
        def end(self, task):
            ended = super().end(task)
            exit = "killed" if word == "lost" else word
            return ended.model_copy(update={"exit": exit}) if task.run.path.name == base else ended

    base = signature(plan, "base", 1)
    for cause in ("diverged", "data"):
        launcher = Contradicting(script={base: [cause]})
        outcome = drive(plan, tmp_path / cause, launcher)
        assert [job.run.state.cause for job in outcome.failed] == [cause]
        assert sum(task.run.path.name == base for task in launcher.tasks) == 1


def test_a_training_that_is_done_stays_done_when_its_job_scored_another_test(make_plan, tmp_path, no_pause):
    plan = make_plan(seeds=(1,))
    run = RunDir(tmp_path / "runs" / signature(plan, "base", 1))
    run.write_spec({})
    write_json(run.path / "job.json", {"launcher": "scripted"})

    class Adopting(ScriptedLauncher):
        def adopt(self, job, task):
            run.update_state(state="done", attempts=1, val_pesq_wb=2.1)
            self.adopted = Ended(run=task.run.path, message="the job of another study")
            return True

        def wait(self, timeout):
            adopted, self.adopted = self.adopted, None
            if adopted is not None:
                return [adopted]
            if self.tasks:
                states.append(run.state.state)
            return super().wait(timeout)

    states = []
    launcher = Adopting()
    assert len(drive(plan, tmp_path, launcher).done) == 5
    assert set(states) == {"done"}
    assert sum(task.run.path == run.path for task in launcher.tasks) == 1


def test_a_cancelled_run_says_so_whatever_the_run_says(make_plan, tmp_path):
    class Cancelled(ScriptedLauncher):
        def end(self, task):
            task.run.update_state(state="failed", cause="lost-worker", message="ended by SIGTERM")
            return Ended(run=task.run.path, exit="cancelled", message="cancelled; ablate retry")

    outcome = drive(make_plan(), tmp_path, Cancelled())
    told = {(job.run.state.cause, job.run.state.message) for job in outcome.failed}
    assert told == {("cancelled", "cancelled; ablate retry")}


def test_a_cancelled_run_does_not_come_back_by_itself(make_plan, tmp_path):
    plan = make_plan(seeds=(1,))
    launcher = ScriptedLauncher(script={signature(plan, "base", 1): ["cancelled"]})
    assert [job.run.state.cause for job in drive(plan, tmp_path, launcher).failed] == ["cancelled"]
    assert len(drive(plan, tmp_path, ScriptedLauncher()).failed) == 1
    assert len(drive(plan, tmp_path, ScriptedLauncher(), Compute(retry_failed=True)).done) == 5


def test_what_the_scheduler_refused_is_tried_by_the_next_driver(make_plan, tmp_path):
    plan = make_plan(seeds=(1,))
    launcher = ScriptedLauncher(script={signature(plan, "base", 1): ["refused"]})
    assert [job.run.state.cause for job in drive(plan, tmp_path, launcher).failed] == ["refused"]
    assert len(drive(plan, tmp_path, ScriptedLauncher()).done) == 5


def test_out_of_memory_with_a_clip_a_micro_batch_is_final(make_plan, tmp_path, no_pause):
    plan = make_plan(seeds=(1,))
    launcher = ScriptedLauncher(script={signature(plan, "base", 1): ["out-of-memory"] * 99})
    outcome = drive(plan, tmp_path, launcher, Compute(retries=99))
    assert [job.run.state.cause for job in outcome.failed] == ["out-of-memory"]
    tasks = [task for task in launcher.tasks if task.run.path.name == signature(plan, "base", 1)]
    assert [task.accumulation for task in tasks] == [None, 2, 4, 6]


def test_a_run_that_is_written_while_its_task_ended_is_judged_when_it_is_free(
    make_plan, tmp_path, monkeypatch
):
    monkeypatch.setattr(drivers, "LOCKED_PAUSE", 0.01)
    monkeypatch.setattr("ablate.training.files.PROBING", 0.01)
    plan = make_plan(seeds=(1,))
    base = RunDir(tmp_path / "runs" / signature(plan, "base", 1))
    base.path.mkdir(parents=True)

    class Elsewhere(ScriptedLauncher):
        looks = 0

        def wait(self, timeout):
            if not (self.active or self.looks):
                self.looks = 1
            elif self.looks:
                self.looks += 1
            if self.looks == 5:
                base.update_state(state="diverged")
                held.__exit__(None, None, None)
            time.sleep(0.02)
            return super().wait(timeout)

    held = base.lock()
    held.__enter__()
    launcher = Elsewhere(script={base.signature: ["lost"]})
    outcome = drive(plan, tmp_path, launcher)
    assert (len(outcome.done), [job.run.signature for job in outcome.failed]) == (4, [base.signature])
    assert sum(task.run.path == base.path for task in launcher.tasks) == 1
    assert base.state.state == "diverged"


def test_too_many_failures_stop_the_rest(make_plan, tmp_path):
    plan = make_plan(seeds=(1,))
    script = {cell.signatures[1]: ["data"] for cell in plan.cells}
    outcome = drive(plan, tmp_path, ScriptedLauncher(slots=1, script=script), Compute(max_failures=2))
    assert (len(outcome.failed), len(outcome.left)) == (2, 3)


def test_a_run_that_another_process_writes_is_waited_for(make_plan, tmp_path, no_pause):
    plan = make_plan(seeds=(1,))
    launcher = ScriptedLauncher(script={signature(plan, "base", 1): ["busy"]})
    assert len(drive(plan, tmp_path, launcher).done) == 5
    assert states(tmp_path) == ["COMPLETE"] * 5


def test_ctrl_c_leaves_a_study_that_goes_on(make_plan, tmp_path):
    plan = make_plan(seeds=(1,))
    launcher = ScriptedLauncher(slots=1, script={signature(plan, "base", 1): ["interrupt"]})
    outcome = drive(plan, tmp_path, launcher)
    assert outcome.interrupted
    assert len(outcome.left) == 5
    assert len(drive(plan, tmp_path, ScriptedLauncher()).done) == 5


def test_status_counts_every_run(make_plan, tmp_path):
    plan = make_plan(seeds=(1, 2))
    script = {signature(plan, "base", 1): ["diverged"]}
    drive(plan, tmp_path, ScriptedLauncher(script=script))
    read = status(plan, tmp_path)
    assert read["counts"] == {"done": 9, "diverged": 1}
    assert set(read["runs"][0]) >= {"cell", "seed", "state", "attempts", "step", "val_pesq_wb", "cause"}
    lost = RunDir(tmp_path / "runs" / signature(plan, "base", 2))
    lost.update_state(state="running")
    assert status(plan, tmp_path)["counts"] == {"done": 8, "diverged": 1, "pending": 1}


def test_failures_of_an_earlier_driver_do_not_stop_this_one(make_plan, tmp_path):
    plan = make_plan(seeds=(1,))
    script = {signature(plan, "base", 1): ["data"]}
    assert (
        len(drive(plan, tmp_path, ScriptedLauncher(slots=1, script=script), Compute(max_failures=1)).left)
        == 4
    )
    assert len(drive(plan, tmp_path, ScriptedLauncher(slots=1), Compute(max_failures=1)).done) == 4


def test_a_run_without_a_measured_validation_is_done_but_no_complete_trial(make_plan, tmp_path):
    plan = make_plan(seeds=(1,))
    drive(plan, tmp_path, ScriptedLauncher())
    unmeasured = RunDir(tmp_path / "runs" / signature(plan, "base", 1))
    unmeasured.update_state(val_pesq_wb=None)
    more = make_plan(seeds=(1, 2))
    RunDir(tmp_path / "runs" / signature(more, "base", 2)).update_state(state="pending")
    launcher = ScriptedLauncher()
    launcher.end = without_validation(launcher.end, signature(more, "base", 2))
    outcome = drive(more, tmp_path, launcher)
    assert (len(outcome.done), len(outcome.failed)) == (10, 0)
    base = [t for t in trials(tmp_path) if t.user_attrs["cell"] == "base"]
    assert [t.state.name for t in base] == ["COMPLETE", "FAIL"]


def without_validation(end, signature):
    def act(task):
        ended = end(task)
        if task.run.path.name == signature:
            task.run.update_state(val_pesq_wb=None)
        return ended

    return act
