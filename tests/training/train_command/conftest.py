"""Runs of the toy training, and what watches them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.training.config import Evaluation, EvaluationJob
from ablate.training.data.corpus import Corpus
from ablate.training.run import execute
from ablate.training.rundir import RunDir
from ablate.training.subprocess_env import environment
from ablate.training.train_command import code

PYTHON = sys.executable.replace("{", "{{")
COMMAND = f"{PYTHON} toy.py --seed {{seed}} --out {{out}} --data {{data}} {{overrides}}"


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "repo"
    place.mkdir()
    shutil.copy(Path(__file__).with_name("toy.py"), place)
    return place


@pytest.fixture
def new_run(tmp_path, folder, tiny_corpus, cache):
    """`new_run(mode, **fields of the training)`: a run planned, its code kept."""
    corpus = Corpus.open(tiny_corpus, cache=cache)

    def make(
        mode="well", seed=1, name="a" * 64, metrics=(), given=None, **train
    ) -> tuple[RunDir, EvaluationJob]:
        files = code.find_code(folder, ())
        digest = code.digest_of(files)
        code.keep(files, digest, tmp_path / "code")
        run = RunDir(tmp_path / "runs" / name)
        run.write_spec(
            {
                "training_signature": name,
                "train": {
                    "command": COMMAND,
                    "folder": str(folder),
                    "resume": "--resume {out}/latest.pt",
                    "curve": "metrics.jsonl",
                    "digest": digest,
                    **train,
                },
                "overrides": {"mode": mode} if given is None else given,
                "seed": seed,
                "corpus": {"path": str(tiny_corpus), "digest": corpus.digest, "name": corpus.name},
            }
        )
        evaluation = Evaluation(metrics=metrics)
        job = EvaluationJob(signature="plain", evaluation=evaluation, test_digest=corpus.test_digest)
        return run, job

    return make


@pytest.fixture
def go(cache):
    def go(run, job, **changes):
        return execute(run, [job], **{"cache": cache, "threads": 1, "processes": 0, **changes})

    return go


@pytest.fixture
def worker(cache) -> Callable[[RunDir, EvaluationJob], subprocess.Popen]:
    """`worker(run, job)`: another process that carries out a run."""

    def worker(run: RunDir, job: EvaluationJob) -> subprocess.Popen:
        text = (
            "import sys; from pathlib import Path; from ablate.training.run import execute; "
            "from ablate.training.rundir import RunDir; from ablate.training.config import EvaluationJob; "
            "execute(RunDir(sys.argv[1]), [EvaluationJob.model_validate_json(sys.argv[2])], "
            "cache=Path(sys.argv[3]), threads=1, processes=0)"
        )
        words = [sys.executable, "-P", "-c", text, str(run.path), job.model_dump_json(), str(cache)]
        return subprocess.Popen(words, env=environment())

    return worker


@pytest.fixture
def alive() -> Callable[[int], bool]:
    """`alive(pid)`: whether a process runs, and is no zombie."""

    def alive(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    return alive


@pytest.fixture
def wait_for() -> Callable[..., str]:
    """`wait_for(path)`: its content, when it has come."""

    def wait_for(path: Path, seconds: float = 300.0) -> str:
        deadline = time.monotonic() + seconds
        while not path.exists():
            assert time.monotonic() < deadline, f"{path} did not come"
            time.sleep(0.02)
        return path.read_text(errors="replace")

    return wait_for
