"""The SLURM launcher on a real cluster: a controller and two nodes on this host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ablate.ablations.grid import parse_factors
from ablate.models import plugins
from ablate.studies import train_command
from ablate.studies.compute import Compute
from ablate.studies.driver import Driver, DriverProgress, plan_jobs
from ablate.studies.launchers import slurm
from ablate.studies.launchers.slurm import EXITS, SlurmLauncher, job_states
from ablate.studies.plan import make, study_path
from ablate.studies.study import Study
from ablate.studies.study_file import asked
from ablate.studies.trials import open_storage, plan_book
from ablate.training.rundir import RunDir, read_json

TROUBLED = Path(__file__).with_name("troubled_cores.py")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("root")


def make_plan(root, seed, steps=4, factors="bidirectional", plugins=()):
    request = Study(
        factors=parse_factors(factors),
        plugins=plugins,
        baseline=None,
        seeds=(seed,),
        set={
            "recipe.steps": steps,
            "recipe.validate_every": 10_000,
            "recipe.validation_utterances": 1,
            "recipe.crop_seconds": 0.5,
            "recipe.batch_size": 2,
            "recipe.checkpoint_every": 5,
        },
    )
    return make(request, root)[0]


def make_driver(plan, root, folder, **policy):
    launcher = SlurmLauncher(folder, settings=["time=20", "signal_delay_s=5"])
    jobs = plan_jobs(plan, root, plan_book(open_storage(folder), plan))
    return Driver(launcher, Compute(**policy)), jobs, launcher


def wait_for(condition, seconds=120):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "waited in vain"
        time.sleep(0.3)


def when_training(job, act):
    def watch():
        wait_for(lambda: job.run.state.step >= 5)
        act(read_json(job.run.path / "job.json")["id"])

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_runs_go_through_an_array(cluster, root):
    plan = make_plan(root, 1)
    driver, jobs, _ = make_driver(plan, root, root / "array")
    outcome = driver.run(jobs)
    assert (len(outcome.done), len(outcome.failed)) == (2, 0), [job.run.state for job in jobs]
    ids = [read_json(job.run.path / "job.json")["id"] for job in jobs]
    assert len({job.split("_")[0] for job in ids}) == 1
    assert len(set(ids)) == 2


def test_every_run_ends_as_it_says_itself(cluster, root):
    plugins.load([TROUBLED])
    plan = make_plan(root, 6, factors="core=lstm,diverging,hungry,failing", plugins=(str(TROUBLED),))
    driver, jobs, _ = make_driver(plan, root, root / "troubled")
    outcome = driver.run(jobs)
    ended = {job.name: job.run.state for job in outcome.done + outcome.failed}
    assert {name: (state.state, state.cause, state.attempts) for name, state in ended.items()} == {
        "base seed 6": ("done", None, 1),
        "core=diverging seed 6": ("diverged", None, 1),
        "core=hungry seed 6": ("done", None, 2),
        "core=failing seed 6": ("failed", "error", 1),
    }
    assert "a fault of the network" in ended["core=failing seed 6"].message
    assert {job.name: job.accumulation for job in jobs if job.accumulation} == {"core=hungry seed 6": 2}
    trials = plan_book(open_storage(root / "troubled"), plan).trials
    causes = {cell: entry.attributes.get("cause") for (cell, _), entry in trials.items()}
    assert {cell: cause for cell, cause in causes.items() if cause} == {
        "core=diverging": "diverged",
        "core=failing": "error",
    }
    driver, jobs, _ = make_driver(plan, root, root / "troubled")
    again = driver.run(jobs)
    assert (len(again.done), len(again.failed), again.trained) == (2, 2, 0)


def test_a_cancelled_job_does_not_come_back(cluster, root):
    plan = make_plan(root, 2, steps=40)
    driver, jobs, _ = make_driver(plan, root, root / "cancelled")
    watcher = when_training(jobs[0], lambda job: subprocess.run(["scancel", job], check=True))
    outcome = driver.run(jobs)
    watcher.join()
    assert (len(outcome.done), [job.run.state.cause for job in outcome.failed]) == (1, ["cancelled"])
    assert "ablate retry" in jobs[0].run.state.message
    assert (jobs[0].retries, jobs[0].run.state.attempts) == (0, 1)
    driver, jobs, _ = make_driver(plan, root, root / "cancelled", retry_failed=True)
    assert len(driver.run(jobs).done) == 2


def test_ctrl_c_leaves_checkpoints_and_the_next_driver_goes_on(cluster, root):
    plan = make_plan(root, 7, steps=40)
    driver, jobs, launcher = make_driver(plan, root, root / "interrupted")
    wait = launcher.wait

    def interrupted(timeout):
        if any(job.run.state.step >= 5 for job in jobs):
            launcher.wait = wait
            raise KeyboardInterrupt
        return wait(timeout)

    launcher.wait = interrupted
    outcome = driver.run(jobs)
    assert (outcome.interrupted, len(outcome.left)) == (True, 2)
    assert not any(job.run.locked for job in jobs)
    assert max(job.run.state.step for job in jobs) >= 5
    driver, jobs, _ = make_driver(plan, root, root / "interrupted")
    assert len(driver.run(jobs).done) == 2


OWN = """
train:
  command: {python} toy.py --seed {{seed}} --out {{out}} --data {{data}} {{overrides}}
  resume: --resume {{out}}/latest.pt
  folder: {folder}
  code: [toy.py]
factors:
  gain: {{levels: {{off: {{gain: "0.90"}}, on: {{gain: 1.0}}}}}}
set: {{mode: polite0}}
endpoint: {{metric: si_sdr, margin: 1}}
data: {data}
scores: enhanced/
seeds: 1
"""


@pytest.mark.parametrize("how", ["requeued", "interrupted"])
def test_a_command_is_asked_to_end_and_called_again(cluster, tmp_path, corpus, how):
    """Beside its worker, to which SLURM sends the same signal; it ends well, and without its scores."""
    toy = Path(__file__).parents[2] / "training" / "train_command" / "toy.py"
    file = tmp_path / "study.yaml"
    file.write_text(OWN.format(python=sys.executable, folder=toy.parent, data=corpus))
    request = asked(file)
    plan, _ = make(request, tmp_path)
    train_command.keep_code(plan.train, request.file, tmp_path)
    folder = study_path(tmp_path, plan.name)

    def waits(job):
        return (job.run.path / "out" / "pids").exists()

    def act():
        wait_for(lambda: all(map(waits, jobs)))
        if how == "requeued":
            for job in jobs:
                cluster.requeue(read_json(job.run.path / "job.json")["id"])
        else:
            os.kill(os.getpid(), signal.SIGINT)

    driver, jobs, _ = make_driver(plan, tmp_path, folder)
    watcher = threading.Thread(target=act)
    watcher.start()
    outcome = driver.run(jobs)
    watcher.join()
    ended = (2, 0, 0) if how == "requeued" else (0, 0, 2)
    assert tuple(map(len, (outcome.done, outcome.failed, outcome.left))) == ended
    driver, jobs, _ = make_driver(plan, tmp_path, folder)
    assert len(driver.run(jobs).done) == 2, [job.run.state for job in jobs]
    assert [len((job.run.path / "out" / "called.txt").read_text().split()) for job in jobs] == [2, 2]


def test_a_limit_on_submissions_fails_no_run(limited_cluster, tmp_path, monkeypatch):
    """Eight runs where three jobs of a user's may be queued or running at once."""
    plans = [make_plan(tmp_path, seed, steps=2, factors="bidirectional,decoder4x") for seed in (1, 2)]
    folder, told = tmp_path / "study", []
    monkeypatch.setattr(slurm, "GATHER", 1.0)
    storage, launcher = open_storage(folder), SlurmLauncher(folder, settings=["time=20"], slots=20)
    jobs = [job for plan in plans for job in plan_jobs(plan, tmp_path, plan_book(storage, plan))]
    progress = DriverProgress()
    progress.told = told.append
    outcome = Driver(launcher, progress=progress).run(jobs)
    assert (len(outcome.done), len(outcome.failed)) == (8, 0), [job.run.state for job in jobs]
    assert {job.run.state.attempts for job in jobs} == {1}
    assert any("QOSMaxSubmitJobPerUserLimit" in line for line in told)
    assert launcher.slots == 3


def test_a_training_that_never_reaches_a_checkpoint_in_its_time_is_given_up(cluster, root, monkeypatch):
    plan = make_plan(root, 9, steps=1_000_000, factors="bidirectional")
    folder = root / "slow"
    jobs = plan_jobs(plan, root, plan_book(open_storage(folder), plan))[:1]
    jobs[0].document["recipe"]["checkpoint_every"] = 1_000_000
    launcher = SlurmLauncher(folder, settings=["time=1", "signal_delay_s=10"])
    wait = launcher.wait

    def wait_no_longer(timeout):  # SLURM holds a requeued job back for two minutes
        for job in launcher._jobs:
            subprocess.run(["scontrol", "update", f"jobid={job}", "starttime=now"], capture_output=True)
        return wait(timeout)

    launcher.wait = wait_no_longer
    outcome = Driver(launcher).run(jobs)
    assert len(outcome.failed) == 1
    state = jobs[0].run.state
    assert (state.state, state.cause, state.attempts) == ("failed", "time-limit", 2)
    assert "both ended at SLURM's time limit and started at step 0" in state.message


def test_a_job_that_is_held_is_told_of(cluster, root):
    plan = make_plan(root, 10)
    driver, jobs, launcher = make_driver(plan, root, root / "held")
    told = []
    driver._progress.told = told.append
    launcher._executor.update_parameters(additional_parameters={"hold": True})
    wait, released = launcher.wait, []

    def release(timeout):
        if told and not released:
            released.append(subprocess.run(["scontrol", "release", *launcher._jobs], check=True))
        return wait(timeout)

    launcher.wait = release
    assert len(driver.run(jobs).done) == 2
    assert any(": JobHeldUser" in line for line in told)


def test_a_requeued_job_goes_on_from_its_checkpoint(cluster, root):
    plan = make_plan(root, 3, steps=40)
    driver, jobs, _ = make_driver(plan, root, root / "requeued")

    watcher = when_training(jobs[0], cluster.requeue)
    outcome = driver.run(jobs)
    watcher.join()
    assert (len(outcome.done), len(outcome.failed)) == (2, 0)
    assert jobs[0].run.state.attempts == 2
    assert jobs[0].retries == 0


def test_jobs_of_a_dead_driver_are_adopted(cluster, root):
    plan = make_plan(root, 4, steps=40)
    folder = root / "adopted"
    driver, jobs, launcher = make_driver(plan, root, folder)
    for job in jobs:
        driver._submit(job)
    launcher.wait(0)
    ids = [read_json(job.run.path / "job.json")["id"] for job in jobs]
    launcher.close()
    assert all(state not in EXITS for state in job_states(ids).values())
    driver, jobs, _ = make_driver(plan, root, folder)
    outcome = driver.run(jobs)
    assert (len(outcome.done), len(outcome.failed)) == (2, 0)
    assert [read_json(job.run.path / "job.json")["id"] for job in jobs] == ids
    assert [job.run.state.attempts for job in jobs] == [1, 1]


def test_a_killed_node_loses_no_run(cluster, root):
    plan = make_plan(root, 5, steps=40)
    driver, jobs, _ = make_driver(plan, root, root / "node")

    def kill_node(job):
        listed = subprocess.run(
            ["squeue", "-h", "-j", job, "-o", "%N"], capture_output=True, text=True, check=True
        )
        node = listed.stdout.strip()
        pid = jobs[0].run.state.pid
        cluster.daemons[node].kill()
        cluster.daemons[node].wait()
        os.kill(pid, signal.SIGKILL)
        time.sleep(15)
        cluster.start_node(node)

    watcher = when_training(jobs[0], kill_node)
    outcome = driver.run(jobs)
    watcher.join()
    assert (len(outcome.done), len(outcome.failed)) == (2, 0), [job.run.state for job in jobs]
    assert jobs[0].run.state.attempts >= 2


def test_gone_jobs_are_not_adopted(cluster, root):
    launcher = SlurmLauncher(root / "gone")
    plan = make_plan(root, 1)
    _, jobs, _ = make_driver(plan, root, root / "gone")
    task = jobs[0]
    assert not launcher.adopt({"launcher": "slurm", "id": "999999"}, task)
    assert not launcher.adopt({"launcher": "local", "id": "1"}, task)


def test_run_directory_is_free_after_every_job(cluster, root):
    runs = [RunDir(path) for path in (root / "runs").iterdir()]
    assert runs
    assert not any(run.locked for run in runs)
