"""Studies of an earlier commit (`tests/stored`), one with a non-default `judge_lag`, one with a command.

They are reported from a folder that nobody can write to, gain a seed without training again what is there,
train what is lost, and travel in an archive.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

STORED = Path(__file__).parents[1] / "stored"
TOY = Path(__file__).parents[1] / "training" / "train_command" / "toy.py"
EFFECTS = json.loads((STORED / "effects.json").read_text())
STUDIES = {"networks": 4, "command": 6}
"""By study, how many runs it has."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The root, the study files, their corpus and the program of the command."""
    shutil.copytree(STORED, tmp_path / "stored")
    (tmp_path / "stored" / "program").mkdir()
    shutil.copy(TOY, tmp_path / "stored" / "program" / "train.py")
    draw = np.random.default_rng(0)
    for split, speakers in (("train", "abc"), ("test", "d")):
        for name in (f"{speaker}_{number}.wav" for speaker in speakers for number in range(3)):
            speech, noise = draw.integers(-3000, 3000, 16000), draw.integers(-1500, 1500, 16000)
            for kind, samples in (("clean", speech), ("noisy", speech + noise)):
                path = tmp_path / "stored" / "corpus" / split / kind / name
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, samples.astype("int16"), 16000)
    return tmp_path / "stored"


def ablate(folder: Path, *arguments: object) -> str:
    """What a command prints that is run in a folder; `python3` is the interpreter of the tests."""
    (folder.parent / "bin").mkdir(exist_ok=True)
    python = folder.parent / "bin" / "python3"
    if not python.exists():
        python.symlink_to(sys.executable)
    command = [sys.executable, "-c", "from ablate.reports.cli import main; main()", *map(str, arguments)]
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def effects(folder: Path, name: str, root: str = "root") -> list[dict]:
    found = json.loads(ablate(folder, "report", name, "--root", root, "--format", "json"))["effects"]
    return [{key: effect[key] for key in EFFECTS[name][0]} for effect in found]


def states(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder / "root" / "runs").glob("*/state.json")}


def same(found: list[dict], then: list[dict]) -> None:
    assert len(found) == len(then)
    for now, was in zip(found, then, strict=True):
        for key, value in was.items():
            expected = pytest.approx(value, rel=1e-6, abs=1e-9) if isinstance(value, float) else value
            assert now[key] == expected, (was, now)


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_it_is_reported_from_a_read_only_root_and_travels(folder: Path, name: str) -> None:
    before = {path: path.read_bytes() for path in (folder / "root").rglob("*") if path.is_file()}
    subprocess.run(["chmod", "-R", "a-w", folder / "root"], check=True)
    same(effects(folder, name), EFFECTS[name])
    ablate(folder, "export", name, "--root", "root", "-o", folder.parent / "archive.tar.gz")
    subprocess.run(["chmod", "-R", "u+w", folder / "root"], check=True)
    assert {path: path.read_bytes() for path in (folder / "root").rglob("*") if path.is_file()} == before
    ablate(folder, "import", folder.parent / "archive.tar.gz", "--root", "another")
    same(effects(folder, name, "another"), EFFECTS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_it_gains_a_seed_and_what_is_lost_and_nothing_is_trained_again(folder: Path, name: str) -> None:
    lost = next((folder / "root" / "runs").glob("*/spec.json")).parent
    plan = json.loads((folder / "root" / "studies" / name / "plan.json").read_text())
    lost = folder / "root" / "runs" / plan["cells"][0]["signatures"]["2"]
    shutil.rmtree(lost)
    before = states(folder)
    said = ablate(folder, "run", f"{name}.yaml", "--root", "root", "--seeds", 3, "--tracking-uri", "none")
    trained = 1 + STUDIES[name] // 2
    assert f"({trained} trained or scored now)" in said
    assert (lost / "state.json").exists()
    after = states(folder)
    assert {path: after[path] for path in before} == before
    assert len(after) == len(before) + trained
