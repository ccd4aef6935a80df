"""The worked example, `examples/training_command`, taken through all that can happen to a training."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

HERE = Path(__file__).parents[3] / "examples" / "training_command"
COMMAND = f"{sys.executable} train.py --seed {{seed}} --out {{out}} --data {{data}} {{overrides}}"
STEPS = {"steps": "40", "channels": "8"}
FAULTS = {
    "failing": ("model = Masker(", "raise RuntimeError('no such layer')\n    model = Masker("),
    "silent": ('    enhanced = options.out / "enhanced"\n', "    return\n    enhanced = options.out\n"),
    "writing NaN": ("loss.backward()", "loss = loss * float('nan')\n        loss.backward()"),
    "forgetting its seed": (
        "torch.manual_seed(options.seed)\n",
        "options.seed = 0\n    torch.manual_seed(0)\n",
    ),
    "slow": ("        if step % 10 == 0:\n", "        time.sleep(0.1)\n        if step % 10 == 0:\n"),
}

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "example"
    shutil.copytree(HERE, place, ignore=shutil.ignore_patterns("__pycache__"))
    return place


@pytest.fixture(scope="module")
def tiny_corpus(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same files, laid out as those of VoiceBank+DEMAND."""
    place = tmp_path_factory.mktemp("voicebank")
    for split in ("train", "test"):
        for kind in ("clean", "noisy"):
            (place / f"{kind}_{split}set_wav").symlink_to(tiny_corpus / split / kind)
    return place


@pytest.fixture
def train(new_run, folder):
    """`train(fault)`: a run of the example, with a fault put into it."""

    def make(fault: str | None = None, **fields):
        if fault is not None:
            old, new = FAULTS[fault]
            text = (HERE / "train.py").read_text()
            assert old in text
            (folder / "train.py").write_text("import time\n" + text.replace(old, new))
        return new_run(command=COMMAND, code=("train.py",), given=STEPS, **fields)

    return make


def scores(run) -> pd.DataFrame:
    return pd.read_parquet(run.scores_path("plain"))


def test_it_goes_on_after_its_worker_was_killed_as_if_nothing_had_been(train, go, worker, wait_for):
    whole, job = train(name="1" * 64)
    assert go(whole, job).state == "done", whole.state.message
    cut, _ = train("slow", name="2" * 64)
    other = worker(cut, job)
    wait_for(cut.path / "out" / "latest.pt", 120)
    other.kill()
    other.wait()
    state = go(cut, job)
    assert (state.state, state.attempts, state.step) == ("done", 2, 40), state.message
    assert "continuing after step" in cut.log.read_text()
    assert scores(cut).equals(scores(whole))
    assert [line["val/loss"] for line in cut.metrics()] == [line["val/loss"] for line in whole.metrics()]


@pytest.mark.parametrize(
    ("fault", "state", "cause", "said"),
    [
        ("failing", "failed", "error", "exit code 1: RuntimeError: no such layer"),
        ("silent", "failed", "output", "left no enhanced; expected 2 enhanced test files"),
        ("writing NaN", "diverged", None, "is not finite at the end of metrics.jsonl"),
    ],
)
def test_a_fault_is_told(train, go, fault, state, cause, said):
    run, job = train(fault)
    found = go(run, job)
    found = run.evaluation("plain") if cause == "output" else found
    assert (found.state, found.cause) == (state, cause)
    assert said in found.message


def test_seeds_tell_its_trainings_apart_unless_it_forgets_them(train, go):
    for fault, same in ((None, False), ("forgetting its seed", True)):
        tables = []
        for seed in (1, 2):
            run, job = train(fault, seed=seed, name=f"{seed}{'ab'[same]}" * 32)
            assert go(run, job).state == "done", run.state.message
            tables.append(scores(run))
        assert tables[0].equals(tables[1]) == same
