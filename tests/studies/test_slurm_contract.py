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
from ablate.studies.driver import Driver, plan_jobs
from ablate.studies.launchers.slurm import SlurmLauncher
from ablate.studies.plan import make, study_path
from ablate.studies.study_file import asked
from ablate.studies.trials import open_storage, plan_book
from ablate.training.train_command.process import MARKER

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PROGRAMS = Path(__file__).parents[1] / "training" / "train_command"
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


@pytest.mark.parametrize("program", COMMANDS)
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
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps(study))
    request = asked(file)
    plan, _ = make(request, tmp_path)
    train_command.keep_code(plan.train, request.file, tmp_path)
    place = study_path(tmp_path, plan.name)
    jobs = plan_jobs(plan, tmp_path, plan_book(open_storage(place), plan))
    by_signature = {job.run.signature: job for job in jobs}
    runs = {c.levels["mode"]: by_signature[c.signatures[1]] for c in plan.cells if c.levels}

    def kill():
        state, deadline = runs["killed"].run.state, time.monotonic() + 300
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
