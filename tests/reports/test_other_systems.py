"""What other systems lack is taken away: `fork`, `/proc` and the mask of cores, which macOS does not have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ablate.models.cores import usable_cores
from ablate.training import subprocess_env

TAKEN_AWAY = """
import os
from pathlib import Path

for name in ("fork", "forkpty", "sched_getaffinity", "sched_setaffinity"):
    delattr(os, name)


def without_proc(name):
    had = getattr(Path, name)

    def call(self, *arguments, **options):
        if str(self).startswith("/proc"):
            raise FileNotFoundError(2, "there is no /proc", str(self))
        return had(self, *arguments, **options)

    setattr(Path, name, call)


for name in ("read_text", "read_bytes", "write_text", "open"):
    without_proc(name)
"""


def test_without_a_mask_all_cores_are_usable(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert usable_cores() == 6


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_study_runs_without_fork_and_proc(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(TAKEN_AWAY)
    environment = subprocess_env.environment()
    environment["PYTHONPATH"] = f"{tmp_path / 'site'}:{environment['PYTHONPATH']}"

    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert run(sys.executable, "-c", "import os; print(hasattr(os, 'fork'))").strip() == "False"
    ablate = str(Path(sys.executable).with_name("ablate"))
    run(
        ablate,
        *[
            "run",
            "--grid",
            "bidirectional",
            "--baseline",
            "none",
            "--seeds",
            "1",
            "--jobs",
            "2",
            "--set",
            "recipe.steps=2",
        ],
    )
    assert "bidirectional" in run(ablate, "report", "--format", "md")
    run(ablate, "doctor")
    noise = np.random.default_rng(0).normal(size=16_000)
    for name, wave in (("clean.wav", 0.1 * noise), ("enhanced.wav", 0.09 * noise)):
        soundfile.write(tmp_path / name, wave, 16_000)
    assert "si_sdr" in run(ablate, "score", "clean.wav", "enhanced.wav", "--format", "csv")
