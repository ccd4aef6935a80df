"""`ablate data` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from ablate.reports.cli import app


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "speech"
    for split, names in (("train", ["a1_1", "a2_1", "a3_1"]), ("test", ["b1_1"])):
        for seed, name in enumerate(names):
            rng = np.random.default_rng([seed, split == "test"])
            time = np.arange(16_000) / 16_000
            clean = 0.1 * np.sin(2 * np.pi * 200 * time) * np.clip(np.sin(2 * np.pi * 3 * time), 0, None)
            for kind, audio in (("clean", clean), ("noisy", clean + 0.01 * rng.standard_normal(16_000))):
                (root / split / kind).mkdir(parents=True, exist_ok=True)
                soundfile.write(root / split / kind / f"{name}.wav", audio, 16_000)
    return root


def run(*arguments: object) -> tuple[int, str, str, BaseException | None]:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr, result.exception


def test_check_prints_a_table_or_json(folder: Path, tmp_path: Path) -> None:
    code, out, _, _ = run("check", folder, "--root", tmp_path / "root")
    assert code == 0
    assert "test: 1 pairs" in out
    assert "clean audio of the test set in train: b1_1 (" in out  # the tone is the same in every file
    code, out, _, _ = run("check", folder, "--root", tmp_path / "root", "--format", "json")
    assert code == 0
    assert json.loads(out)["splits"]["train"]["files"] == 2


def test_check_names_every_fault(folder: Path, tmp_path: Path) -> None:
    for kind in ("clean", "noisy"):
        for index in range(8):
            soundfile.write(folder / "train" / kind / f"z{index}_1.wav", np.zeros(8000), 16_000)
    _, _, _, error = run("check", folder, "--root", tmp_path / "root")
    assert isinstance(error, ValueError)
    assert "16 problems in 11 pairs (16 silent)" in str(error)
    assert all(f"z{index}_1.wav is silent" in str(error) for index in range(8))


def test_voicebank_tells_what_is_missing(tmp_path: Path) -> None:
    code, out, err, _ = run("voicebank", tmp_path)
    assert (code, out) == (4, "")
    assert "clean_trainset_28spk_wav: 0 of 11572 files" in err


def test_an_unknown_format_is_refused(folder: Path) -> None:
    assert "known: table, json" in str(run("check", folder, "--format", "xml")[3])
