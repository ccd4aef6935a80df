"""One suite for every launcher; the runs are real trainings of a few steps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from ablate.ablations.grid import parse_factors
from ablate.ablations.runspec import run_path
from ablate.studies.compute import Compute
from ablate.studies.driver import Driver, plan_jobs
from ablate.studies.launchers import LAUNCHERS
from ablate.studies.plan import make
from ablate.studies.study import Study
from ablate.studies.trials import open_storage, plan_book
from ablate.training.rundir import RunDir


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def request_(corpus):
    return Study(
        data=str(corpus),
        factors=parse_factors("bidirectional"),
        seeds=(1,),
        set={
            "recipe.steps": 4,
            "recipe.validate_every": 2,
            "recipe.validation_utterances": 1,
            "recipe.crop_seconds": 0.5,
            "recipe.batch_size": 2,
            "recipe.checkpoint_every": 1,
        },
    )


def make_launcher(name, folder):
    folder.mkdir(parents=True, exist_ok=True)
    return LAUNCHERS[name].open(folder, Compute(jobs=2, gpus=""))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LAUNCHERS))
def test_contract(name, root, request_, request):
    if name == "slurm":
        request.getfixturevalue("cluster")
    plan, _ = make(request_.model_copy(update={"seeds": (10 + list(LAUNCHERS).index(name),)}), root)
    launcher = make_launcher(name, root / name)
    assert not launcher.adopt({"launcher": "another", "id": "1"}, None)
    assert launcher.free == launcher.slots
    try:
        jobs = plan_jobs(plan, root, plan_book(open_storage(root / name), plan))
        outcome = Driver(launcher).run(jobs)
    finally:
        launcher.close()
    assert (len(outcome.done), len(outcome.failed)) == (3, 0), [j.run.state for j in outcome.failed]
    assert all(job.run.state.attempts == 1 for job in outcome.done)
    assert not any(job.run.locked for job in outcome.done)
    assert len({job.run.summary["parameters"] for job in outcome.done}) == 3


@pytest.mark.slow
def test_a_killed_worker_takes_only_its_run_with_it(root, request_):
    plan, _ = make(request_.model_copy(update={"seeds": (3,)}), root)
    launcher = make_launcher("local", root / "killed")
    jobs = plan_jobs(plan, root, plan_book(open_storage(root / "killed"), plan))
    kills = []

    class Killing(Driver):
        def _submit(self, job):
            super()._submit(job)
            if not kills:
                kills.append(launcher.pids[job.run.path])
                os.kill(kills[0], signal.SIGKILL)

    try:
        outcome = Killing(launcher).run(jobs)
    finally:
        launcher.close()
    assert (len(outcome.done), len(outcome.failed)) == (3, 0)
    assert [job.retries for job in jobs] == [1, 0, 0]


@pytest.mark.slow
def test_workers_end_with_their_driver(root, request_):
    plan, _ = make(request_.model_copy(update={"seeds": (4,)}), root)
    script = f"""
import sys, time
from pathlib import Path
from ablate.studies.driver import Driver, plan_jobs
from ablate.studies.launchers.local import LocalLauncher
from ablate.studies.launchers.slots import Slot
from ablate.studies.plan import Plan
from ablate.studies.trials import open_storage, plan_book
plan = Plan.model_validate_json(sys.stdin.read())
root = Path({str(root)!r})
launcher = LocalLauncher([Slot(1)], root / "orphans.log")
jobs = plan_jobs(plan, root, plan_book(open_storage(root / "orphans"), plan))
submit = launcher.submit
def told(task):
    submit(task)
    print(launcher.pids[task.run.path], flush=True)
launcher.submit = told
Driver(launcher).run(jobs)
"""
    driver = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    driver.stdin.write(plan.model_dump_json())
    driver.stdin.close()
    worker = int(driver.stdout.readline())
    driver.kill()
    driver.wait()
    deadline = time.time() + 120
    while alive(worker) and time.time() < deadline:
        time.sleep(0.1)
    assert not alive(worker)
    assert not any(RunDir(run_path(root, c.signatures[4])).locked for c in plan.cells)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as handle:
            return handle.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_unknown_launcher_is_named():
    with pytest.raises(ValueError, match="unknown launcher 'locl'; did you mean 'local'"):
        LAUNCHERS["locl"]


LAUNCHER = '''
"""A plug-in with a launcher: the runs end where they are put, untrained."""
from ablate.studies.launchers import LAUNCHERS, Ended, Launcher

class Nowhere(Launcher):
    slots = 3

    def __init__(self):
        self.tasks = []

    @property
    def free(self):
        return self.slots - len(self.tasks)

    def submit(self, task):
        self.tasks.append(task)

    def wait(self, timeout):
        tasks, self.tasks = self.tasks, []
        return [Ended(run=task.run.path, exit="cancelled", message="nobody is there") for task in tasks]

    def stop(self):
        pass

    def close(self):
        pass

LAUNCHERS.register("nowhere", Nowhere)
'''


def test_a_launcher_of_ones_own_is_one_file(tmp_path, monkeypatch, make_plan):
    from ablate.models import plugins

    (tmp_path / "nowhere.py").write_text(LAUNCHER)
    monkeypatch.setattr(LAUNCHERS, "_parts", dict(LAUNCHERS._parts))
    with pytest.raises(ValueError, match="unknown launcher 'nowhere'"):
        Study(factors=parse_factors("bidirectional"), compute=Compute(launcher="nowhere"))
    plugins.load([tmp_path / "nowhere.py"])
    request = Study(factors=parse_factors("bidirectional"), compute=Compute(launcher="nowhere"))
    launcher = LAUNCHERS[request.compute.launcher].open(tmp_path, Compute())
    plan = make_plan("bidirectional", (1,))
    jobs = plan_jobs(plan, tmp_path, plan_book(open_storage(tmp_path), plan))
    outcome = Driver(launcher).run(jobs)
    assert {job.run.state.message for job in outcome.failed} == {"nobody is there"}
    assert len(outcome.failed) == 3
