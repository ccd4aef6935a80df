"""A benchmark that is run rarely follows the code it measures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_driver_is_measured_on_trials_that_end(tmp_path):
    found = tmp_path / "found.json"
    command = [sys.executable, str(HERE / "benchmarks/driver_scale.py"), "--cells", "2", "--seeds", "2"]
    subprocess.run([*command, "--json", str(found)], check=True, timeout=600, cwd=tmp_path)
    measured = json.loads(found.read_text())
    assert measured["trials"] == 6  # two cells and the baseline
    assert measured["trainings"] == 6
