"""Every kind of command goes through SLURM as it goes on this machine: the cases of the training contract."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from ablate.studies import train_command
from ablate.studies.compute import Compute
from ablate.studies.driver import Driver, plan_jobs
from ablate.studies.launchers.slurm import EXITS, SlurmLauncher, job_states
from ablate.studies.plan import make, study_path
from ablate.studies.study_file import asked
from ablate.studies.trials import open_storage, plan_book
from ablate.training.rundir import read_json
from ablate.training.train_command.process import MARKER

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
PROGRAMS = Path(__file__).parents[2] / "training" / "train_command"
COMMANDS = json.loads((PROGRAMS / "programs.json").read_text())
ENDS = {
    "off": ("done", None),
    "killed": ("done", None),
    "forking": ("done", None),
    "failing": ("failed", "error"),
    "silent": ("done", None),
    "diverging": ("diverged", None),
    "linking": ("failed", "changed-link"),
}


def left_behind(folder):
    """Processes that a run under a folder started and that still live."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in process.environ().get(MARKER, "") and process.status() != "zombie":
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def planned(study, root):
    """The plan of a study file whose code is kept under the root, and the study's folder."""
    file = root / "study.yaml"
    file.write_text(json.dumps(study))
    request = asked(file)
    plan, _ = make(request, root)
    train_command.keep_code(plan.train, request.file, root)
    return plan, study_path(root, plan.name)


@pytest.mark.parametrize("program", [name for name, fields in COMMANDS.items() if "then" not in fields])
def test_a_command_ends_in_each_way_of_the_contract(cluster, tmp_path, corpus, program):
    folder = tmp_path / "repo"
    (folder / "linked").mkdir(parents=True)
    (folder / "linked" / "list.txt").write_text("files")
    shutil.copy(PROGRAMS / "program.py", folder)
    levels = {name: {"mode": name, "nap": 0} for name in ENDS}
    levels |= {"off": {"mode": "well", "nap": 0}, "killed": {"mode": "well", "nap": 0.5}}
    python = sys.executable.replace("{", "{{")
    command = COMMANDS[program] | {"command": f"{python} {COMMANDS[program]['command']}"}
    study = {
        "train": {**command, "folder": str(folder), "code": ["program.py"]},
        "factors": {"mode": {"levels": levels}},
        "endpoint": {"metric": "si_sdr", "margin": 1},
        "data": str(corpus),
        "curve": "metrics.jsonl",
        "scores": "enhanced/",
        "seeds": 1,
    }
    plan, place = planned(study, tmp_path)
    jobs = plan_jobs(plan, tmp_path, plan_book(open_storage(place), plan))
    by_signature = {job.run.signature: job for job in jobs}
    runs = {c.levels["mode"]: by_signature[c.signatures[1]] for c in plan.cells if c.levels}

    def kill():
        state, deadline = runs["killed"].run.state, time.monotonic() + 1500
        while not (state.step >= 2 and state.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
            state = runs["killed"].run.state
        os.kill(state.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    alone = [runs.pop("linking")]  # what it writes would be any run's that is under way
    for some in (list(runs.values()), alone):
        launcher = SlurmLauncher(place, settings=["time=20", "signal_delay_s=5"])
        Driver(launcher).run(some)
    killer.join()
    runs["linking"] = alone[0]
    found = {name: job.run.state for name, job in runs.items()}
    assert {name: (state.state, state.cause) for name, state in found.items()} == ENDS, found
    whole, cut = runs["off"].run, runs["killed"].run
    assert cut.state.attempts == 2
    curves = [[(line["step"], line["val/pesq_wb"]) for line in run.metrics()] for run in (whole, cut)]
    assert curves[0] == curves[1]
    assert [step for step, _ in curves[0]] == list(range(1, 13))
    tables = [pd.read_parquet(next((run.path / "scores").glob("*.parquet"))) for run in (whole, cut)]
    assert tables[0].equals(tables[1])
    assert left_behind(tmp_path / "runs") == []


def test_two_gpus_of_a_run_survive_kill_requeue_and_a_dead_driver(gpu_cluster, tmp_path, corpus):
    folder = tmp_path / "repo"
    folder.mkdir()
    shutil.copy(PROGRAMS / "program.py", folder)
    levels = {name: {"gain": gain} for name, gain in (("killed", "0.9"), ("requeued", "0.8"))}
    python = sys.executable.replace("{", "{{")
    command = f"{python} {COMMANDS['launcher']['command']} --gpus={{gpus}} --count={{gpu_count}}"
    study = {
        "train": {**COMMANDS["launcher"], "command": command, "gpus": 2, "folder": str(folder)},
        "factors": {"gain": {"levels": levels}},
        "set": {"nap": "1"},
        "endpoint": {"metric": "si_sdr", "margin": 1},
        "data": str(corpus),
        "curve": "metrics.jsonl",
        "seeds": 1,
    }
    plan, place = planned(study, tmp_path)
    compute = Compute(launcher="slurm", slurm=("time=20", "signal_delay_s=5"), gpus_each=plan.train.gpus)

    def driver_and_jobs():
        jobs = plan_jobs(plan, tmp_path, plan_book(open_storage(place), plan))
        launcher = SlurmLauncher.open(place, compute)
        return Driver(launcher, compute), jobs, launcher

    driver, jobs, launcher = driver_and_jobs()
    for job in jobs:
        driver._submit(job)
    launcher.wait(0)
    launcher.close()  # as a driver that was killed leaves its jobs
    ids = {job.name: read_json(job.run.path / "job.json")["id"] for job in jobs}
    deadline = time.monotonic() + 300
    while not all(job.run.state.step >= 2 and job.run.state.pid for job in jobs):
        assert time.monotonic() < deadline, [job.run.state for job in jobs]
        time.sleep(0.3)
    assert all(state not in EXITS for state in job_states(list(ids.values())).values())
    assert [len(left_behind(job.run.path)) for job in jobs] == [3, 3]

    driver, jobs, _ = driver_and_jobs()
    killed, requeued = jobs
    ranks = {job.name: set(left_behind(job.run.path)) for job in jobs}

    def act():
        os.kill(killed.run.state.pid, signal.SIGKILL)
        gpu_cluster.requeue(ids[requeued.name])

    actor = threading.Thread(target=act)
    actor.start()
    outcome = driver.run(jobs)
    actor.join()
    assert (len(outcome.done), len(outcome.failed)) == (2, 0), [job.run.state for job in jobs]
    assert read_json(requeued.run.path / "job.json")["id"] == ids[requeued.name]
    for job in jobs:
        assert job.run.state.attempts == 2
        assert "--gpus=0,1 --count=2" in job.run.summary["command"]
        assert [line["step"] for line in job.run.metrics()] == list(range(1, 13))
        assert not ranks[job.name] & set(psutil.pids())
        assert left_behind(job.run.path) == []
