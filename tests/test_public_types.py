"""A type checker knows the public names as a user writes them: no plug-in, no setting of this project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1]
USE = """
from ablate.ablations.claims import Claim, Endpoint
from ablate.ablations.factors import Factor
from ablate.ablations.grid import Grid
from ablate.models import ModelConfig
from ablate.studies.study import Study, Tuning
from ablate.training.config import Evaluation, Recipe

config = ModelConfig(channels=64, core="lstm")
recipe = Recipe(name="mine", steps=400, learning_rate=1e-3)
evaluation = Evaluation(pcs=True)
claim = Claim(low=0.1, high=0.2, source="a paper")
endpoint = Endpoint(metric="pesq_wb", margin=0.05)
factor = Factor(name="width", levels={"off": {}, "on": {"model.channels": 96}})
grid = Grid.of((factor,), base="mbsnet", baseline="bsrnn", recipe="quick", set={}, design="full")
study = Study(factors=(factor,), seeds=(1, 2), tune=Tuning(space={"recipe.learning_rate": (1e-4, 1e-2)}))
wrong = ModelConfig(chanels=64)
"""


@pytest.mark.slow
def test_a_type_checker_takes_what_is_right_and_names_what_is_misspelt(tmp_path):
    (tmp_path / "ablate").symlink_to(PACKAGE)
    (tmp_path / "use.py").write_text(USE)
    command = [sys.executable, "-m", "mypy", "--config-file=", "--follow-imports=silent", "use.py"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    errors = [line for line in checked.stdout.splitlines() if ": error:" in line]
    (error,) = errors
    assert "chanels" in error
