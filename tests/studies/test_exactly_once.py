"""Drivers killed at random moments and started again: every cell x seed ends done once."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from ablate.studies.trials import open_storage

SETTINGS = {
    "steps": 12,
    "validate_every": 4,
    "validation_utterances": 1,
    "crop_seconds": 0.5,
    "batch_size": 2,
    "checkpoint_every": 2,
}
ABLATE = [str(Path(sys.executable).with_name("ablate"))]
RUN = [
    *ABLATE,
    *("run", "--grid", "bidirectional,pcs", "--seeds", "2", "--study", "killed", "--no-audit"),
    *(word for name, value in SETTINGS.items() for word in ("--set", f"recipe.{name}={value}")),
]


@pytest.mark.slow
def test_killed_drivers_lose_and_repeat_nothing(tmp_path):
    # A working folder with a package of the same name as ours must not get in the way.
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("raise RuntimeError('the wrong models')")
    draw = random.Random(7)
    for _ in range(3):
        driver = subprocess.Popen(RUN, cwd=tmp_path, stderr=subprocess.DEVNULL)
        try:
            driver.wait(draw.uniform(15, 40))
        except subprocess.TimeoutExpired:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
    last = subprocess.run(RUN, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    told = subprocess.run(
        [*ABLATE, "status", "--format", "json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    read = json.loads(told.stdout)
    assert read["counts"] == {"done": 10}
    root = tmp_path / "ablate-runs"
    assert len(list((root / "runs").iterdir())) == 6
    for run in (root / "runs").iterdir():
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(set(steps))
        assert steps[-1] == 12
    storage = open_storage(root / "studies" / "killed")
    trials = optuna.load_study(storage=storage, study_name="killed").get_trials()
    done = [(t.user_attrs["cell"], t.user_attrs["seed"]) for t in trials if t.state.name == "COMPLETE"]
    assert len(done) == len(set(done)) == 10
    assert {t.state.name for t in trials} <= {"COMPLETE", "FAIL"}
    again = subprocess.run(RUN, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "(0 trained now)" in again.stderr
