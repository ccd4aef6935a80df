"""The contract of every training, case by case, for the built-in trainer and each kind of command."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from ablate.training.data.batches import Batches
from ablate.training.rundir import RunDir
from ablate.training.train_command.process import MARKER

PYTHON = sys.executable.replace("{", "{{")
COMMANDS = json.loads(Path(__file__).with_name("programs.json").read_text())
BUILT_IN = "built-in"
pytestmark = pytest.mark.slow


@pytest.fixture(params=[BUILT_IN, *COMMANDS])
def program(request) -> str:
    return request.param


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "repo"
    (place / "linked").mkdir(parents=True)
    (place / "linked" / "list.txt").write_text("files")
    shutil.copy(Path(__file__).with_name("program.py"), place)
    (place / "conf.json").write_text('{"mode": "well", "nap": 0.0, "gain": 0.9}')
    return place


@pytest.fixture
def train(program, new_run, make_spec, tmp_path, monkeypatch):
    """`train(mode, name, nap)`: a run of the program, which goes as the mode says."""

    batch = Batches.batch

    def poisoned(waves, step):
        return (waves[0], waves[1] * np.nan) if step == 4 else waves

    def make(mode="well", name="a", nap=0.0):
        if program != BUILT_IN:
            fields = COMMANDS[program]
            later = [f"{PYTHON} {command}" for command in fields.get("then", ())]
            return new_run(
                **fields | {"command": f"{PYTHON} {fields['command']}", "then": later},
                name=name * 64,
                given={"mode": mode, "nap": str(nap)},
            )
        _, job = new_run(name=name * 64)
        recipe = {"steps": 12, "checkpoint_every": 1}
        if mode == "diverging":
            monkeypatch.setattr(Batches, "batch", lambda self, step: poisoned(batch(self, step), step))
        run = RunDir(tmp_path / "runs" / (name * 64))
        run.write_spec(make_spec(recipe, training_signature=name * 64))
        if mode == "failing":
            run.write_spec(run.spec | {"start_from": {"path": str(tmp_path / "none.pt"), "digest": "0" * 64}})
        return run, job

    return make


def scores(run: RunDir) -> pd.DataFrame:
    return pd.read_parquet(run.scores_path("plain"))


def curve(run: RunDir) -> list[tuple[int, float]]:
    return [(line["step"], line["val/pesq_wb"]) for line in run.metrics()]


def descendants(run: RunDir) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if str(run.path) in process.environ().get(MARKER, "") and process.status() != "zombie":
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def is_free(run: RunDir) -> bool:
    return not run.locked and not descendants(run)


def test_it_ends_once_with_all_that_is_promised(train, go):
    run, job = train()
    state = go(run, job)
    assert (state.state, state.attempts, state.cause) == ("done", 1, None), state.message
    assert run.evaluation("plain").state == "done"
    assert state.step == 12
    steps = [step for step, _ in curve(run)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 12
    assert state.val_pesq_wb == max(value for _, value in curve(run))
    assert {"seconds_per_step", "val_pesq_wb", "machine"} <= set(run.summary)
    assert len(list(run.audio.glob("*-enhanced.wav"))) == 2
    assert is_free(run)
    assert go(run, job) == state
    other = job.model_copy(update={"signature": "other", "test_digest": "0" * 64})
    before = scores(run)
    assert go(run, other) == state == run.state
    assert run.evaluation("other").state == "failed"
    assert scores(run).equals(before)


def test_killed_at_random_moments_it_ends_as_if_nothing_had_been(train, go, worker):
    whole, job = train(name="1")
    assert go(whole, job).state == "done", whole.state.message
    cut, _ = train(name="2", nap=0.2)
    draw, kills = random.Random(5), 0
    for _ in range(3):
        other = worker(cut, job)
        begun, deadline = len(cut.attempts()), time.monotonic() + 120
        while len(cut.attempts()) == begun and other.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 2))
        kills += other.poll() is None
        other.kill()
        other.wait()
    state = go(cut, job)
    assert state.state == "done", state.message
    assert state.attempts <= 1 + kills
    assert is_free(cut)
    assert scores(cut).equals(scores(whole))
    assert curve(cut) == curve(whole)


def test_asked_to_stop_it_goes_on_from_there(train, go):
    run, job = train(nap=0.2)
    begun = run.path / "attempts.jsonl"
    state = go(run, job, should_stop=lambda: begun.exists() and run.state.step >= 2)
    assert (state.state, state.cause) == ("pending", "interrupted"), state.message
    assert is_free(run)
    state = go(run, job)
    assert (state.state, state.attempts) == ("done", 2), state.message
    assert [step for step, _ in curve(run)][-1] == 12


@pytest.mark.parametrize(
    ("mode", "ended", "cause", "said"),
    [
        ("failing", "failed", "error", "ValueError: the learning rate is a fish"),
        ("silent", "failed", "output", "left no "),
        ("diverging", "diverged", None, "loss is nan"),
        ("linking", "failed", "changed-link", "linked"),
        ("forking", "done", None, None),
    ],
)
def test_each_way_to_end_is_told(program, train, go, mode, ended, cause, said):
    if program == BUILT_IN:
        if mode not in ("failing", "diverging"):
            pytest.skip("the built-in trainer runs no foreign code that could")
        cause, said = ("configuration", "none.pt") if mode == "failing" else (None, "diverged at step")
    run, job = train(mode)
    state = go(run, job)
    if cause == "output":
        assert state.state == "done"
        state = run.evaluation("plain")
    assert (state.state, state.cause) == (ended, cause), state.message
    assert said is None or said in state.message
    assert run.scores_path("plain").exists() == (ended == "done")
    assert is_free(run)
    if ended == "diverged":
        assert go(run, job) == state


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))


def test_a_full_disk_is_got_over(program, train, go, tmp_path):
    disk = tmp_path / "runs"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("may not mount a file system")
    try:
        run, job = train("filling")
        filler = run.path / "filler"
        if program == BUILT_IN:
            fill(filler)
        with suppress(OSError):  # as the state cannot be written either
            assert go(run, job).state == "failed"
        filler.unlink(missing_ok=True)
        (run.path / "out" / "filler").unlink(missing_ok=True)
        if program != BUILT_IN:
            run.write_spec(run.spec | {"overrides": {"mode": "well"}})
        assert go(run, job).state == "done", run.state.message
        assert run.evaluation("plain").state == "done"
    finally:
        subprocess.run(["umount", str(disk)], check=True)
