"""A whole `ablate run` on phantom cards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

PLUGIN = Path(__file__).with_name("garbage.py")
NVIDIA_SMI = """#!/bin/sh
echo "0, GPU-aaaa, 1024"
echo "1, GPU-bbbb, 1024"
"""


@pytest.fixture
def study(tmp_path: Path) -> Any:
    """`study(cards, gigabytes, *words)`: its runs, and the cards its workers were given."""
    draw = np.random.default_rng(0)
    for split, speakers in (("train", "abc"), ("test", "d")):
        for kind in ("clean", "noisy"):
            (tmp_path / "corpus" / split / kind).mkdir(parents=True)
        for speaker in speakers:
            clean = 0.1 * draw.standard_normal(48_000)
            waves = {"clean": clean, "noisy": clean + 0.05 * draw.standard_normal(48_000)}
            for kind, wave in waves.items():
                soundfile.write(tmp_path / "corpus" / split / kind / f"{speaker}_1.wav", wave, 16_000)
    (tmp_path / "nvidia-smi").write_text(NVIDIA_SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)

    def run(cards: int, gigabytes: int, *words: str) -> tuple[list[dict], list[str]]:
        root, log = tmp_path / "root", tmp_path / "log"
        line = [sys.executable, "-P", "-c", "from ablate.reports.cli import main; main()", "run"]
        line += ["--grid", "bidirectional", "--baseline", "none", "--data", str(tmp_path / "corpus")]
        line += ["--plugin", str(PLUGIN), "--waive", "all", "--study", "s", "--root", str(root), *words]
        environment = {
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PHANTOM_N": str(cards),
            "PHANTOM_GB": str(gigabytes),
            "PHANTOM_LOG": str(log),
            "XDG_CONFIG_HOME": str(tmp_path / "configuration"),
        }
        done = subprocess.run(line, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        runs = [
            {name: json.loads((folder / f"{name}.json").read_text()) for name in ("state", "summary")}
            for folder in sorted((root / "runs").iterdir())
        ]
        return runs, [given.split()[1] for given in log.read_text().splitlines() if len(given.split()) > 1]

    return run


def test_four_runs_share_two_cards(study: Any) -> None:
    words = ("--gpus", "0,1", "--runs-per-gpu", "2", "--seeds", "2", "--set", "recipe.steps=6")
    runs, cards = study(2, 4, *words, "--set", "recipe.crop_seconds=0.5", "--set", "recipe.validate_every=3")
    assert [run["state"]["state"] for run in runs] == ["done"] * 4
    assert {run["state"]["attempts"] for run in runs} == {1}
    assert {run["summary"]["device"] for run in runs} == {"cuda"}
    on = Counter(card for card in cards if card in ("0", "1"))
    assert on["0"] >= 2
    assert on["1"] >= 2


def test_a_run_that_fills_its_card_goes_on_in_smaller_parts(study: Any) -> None:
    sizes = {"steps": 2, "batch_size": 12, "crop_seconds": 4.0, "validation_utterances": 1}
    sizes_given = [word for name, value in sizes.items() for word in ("--set", f"recipe.{name}={value}")]
    network = ["--set", "model.channels=32", "--set", "model.layers=2"]
    runs, _ = study(1, 1, "--seeds", "1", "--recipe", "reference", *sizes_given, *network)
    assert [run["state"]["state"] for run in runs] == ["done"] * 2
    assert max(run["state"]["attempts"] for run in runs) > 1
    assert max(run["summary"]["micro_batches"] for run in runs) > 1
    assert all(run["summary"]["peak_memory_bytes"] < 1 << 30 for run in runs)
