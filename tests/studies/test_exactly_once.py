"""Workers and drivers killed at random moments: every cell x seed ends done once, after no more attempts."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import optuna
import psutil
import pytest

from ablate.studies.trials import open_storage
from ablate.training.rundir import RunDir
from ablate.training.train_command.process import MARKER

SLOTS = 2
SETTINGS = {
    "steps": 12,
    "validate_every": 4,
    "validation_utterances": 1,
    "crop_seconds": 0.5,
    "batch_size": 2,
    "checkpoint_every": 2,
}
ABLATE = [str(Path(sys.executable).with_name("ablate"))]
RUN = [*ABLATE, "run", "--study", "killed", "--waive", "all", "--jobs", str(SLOTS), "--gpus", ""]
GRID = [
    *("--grid", "bidirectional,pcs", "--seeds", "2"),
    *(word for name, value in SETTINGS.items() for word in ("--set", f"recipe.{name}={value}")),
]
PROGRAM = Path(__file__).parents[1] / "training" / "train_command" / "program.py"
STUDY = """
train:
  command: {python} program.py launcher --seed={{seed}} --out={{out}} --data={{data}} {{overrides}}
  resume: --resume={{out}}/latest.json
  folder: repo
factors:
  gain: {{levels: {{off: {{gain: "0.90"}}, on: {{gain: 1.0}}}}}}
  mode: {{levels: {{off: {{mode: well, noise: 50}}, on: {{mode: forking, noise: 300}}}}}}
set: {{nap: 0.4}}
baseline: {{gain: 0.5}}
data: {data}
curve: metrics.jsonl
seeds: 2
"""


def workers_of(driver):
    try:
        children = psutil.Process(driver.pid).children()
        return [child for child in children if "ablate.studies.worker" in child.cmdline()]
    except psutil.NoSuchProcess:
        return []


def left_behind(run):
    """Processes of a run's command that still live."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(run.path.resolve()) in process.environ().get(MARKER, ""):
                found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["built-in", "command"])
def test_what_is_killed_is_neither_lost_nor_repeated(tmp_path, corpus, schema, kind):
    command = [*RUN, *GRID, "--data", str(corpus)]
    (tmp_path / "ablate-runs").mkdir()
    shutil.copy(schema, tmp_path / "ablate-runs" / "mlflow.db")
    if kind == "command":
        (tmp_path / "repo").mkdir()
        shutil.copy(PROGRAM, tmp_path / "repo")
        (tmp_path / "study.yaml").write_text(STUDY.format(python=sys.executable, data=corpus))
        command = [*RUN[:2], "study.yaml", *RUN[2:]]
    # A working folder with a package of the same name as ours must not get in the way.
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("raise RuntimeError('the wrong models')")
    draw = random.Random(7)
    hits = 0
    for _ in range(3):
        driver = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
        while driver.poll() is None and not workers_of(driver):
            time.sleep(0.1)
        with suppress(subprocess.TimeoutExpired):
            driver.wait(draw.uniform(0, 8))
        for worker in draw.sample(workers := workers_of(driver), min(1, len(workers))):
            worker.kill()
            hits += 1
        try:
            driver.wait(draw.uniform(1, 8))
        except subprocess.TimeoutExpired:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            hits += SLOTS
    last = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    told = subprocess.run(
        [*ABLATE, "status", "--format", "json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    read = json.loads(told.stdout)
    assert read["counts"] == {"done": 10}
    root = tmp_path / "ablate-runs"
    assert len(list((root / "runs").iterdir())) == (6 if kind == "built-in" else 10)
    runs = [RunDir(path) for path in (root / "runs").iterdir()]
    for run in runs:
        steps = [line["step"] for line in run.metrics()]
        assert steps == sorted(set(steps))
        assert steps[-1] == 12
        begun = [line["attempt"] for line in run.attempts()]
        assert begun == sorted(set(begun))
        assert begun[-1] == run.state.attempts
    assert sum(run.state.attempts for run in runs) <= len(runs) + hits
    storage = open_storage(root / "studies" / "killed")
    trials = optuna.load_study(storage=storage, study_name="killed").get_trials()
    done = [(t.user_attrs["cell"], t.user_attrs["seed"]) for t in trials if t.state.name == "COMPLETE"]
    assert len(done) == len(set(done)) == 10
    assert {t.state.name for t in trials} <= {"COMPLETE", "FAIL"}
    assert not any(map(left_behind, runs))
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "(0 trained or scored now)" in again.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_trainings_go_on_while_the_database_is_away(tmp_path, corpus, postgresql, postgresql_stopped):
    """Workers train and end while the server is stopped; their driver tells it when it is back."""
    grid = [word.replace("recipe.steps=12", "recipe.steps=40") for word in GRID]
    command = [*RUN, *grid, "--data", str(corpus)]
    environment = os.environ | {"COLUMNS": "200", "ABLATE_STORAGE": postgresql}
    root = tmp_path / "ablate-runs"
    others = set(optuna.get_all_study_names(open_storage(tmp_path, postgresql)))

    def states():
        return [RunDir(path).state for path in sorted((root / "runs").glob("*"))]

    def wait_for(condition):
        deadline = time.monotonic() + 300
        while not condition():
            assert driver.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < deadline, states()
            time.sleep(0.2)

    with (tmp_path / "said").open("w") as said:
        driver = subprocess.Popen(command, cwd=tmp_path, stderr=said, env=environment)
    try:
        wait_for(lambda: sum(state.state == "running" and state.step >= 2 for state in states()) == SLOTS)
        workers, done = {w.pid for w in workers_of(driver)}, sum(s.state == "done" for s in states())
        with postgresql_stopped():
            wait_for(lambda: sum(state.state == "done" for state in states()) >= done + SLOTS)
            wait_for(lambda: "does not answer" in (tmp_path / "said").read_text())
            assert {w.pid for w in workers_of(driver)} >= workers
        assert driver.wait(500) == 0, (tmp_path / "said").read_text()
    finally:
        driver.kill()
    assert {(state.state, state.attempts) for state in states()} == {("done", 1)}
    (name,) = set(optuna.get_all_study_names(open_storage(tmp_path, postgresql))) - others
    trials = optuna.load_study(storage=open_storage(tmp_path, postgresql), study_name=name).get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 10
