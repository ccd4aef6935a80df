"""Type checkers understand the public names as they are: mypy without plug-in and settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

USE = """\
import pandas as pd

from ablate import PRESETS, ModelConfig, analyze, build_model
from ablate.ablations.claims import Claim, Endpoint
from ablate.ablations.factors import Factor
from ablate.reports import Analysis
from ablate.studies.study import Study, Tuning
from ablate.training.config import Evaluation, Recipe, RunConfig

config: ModelConfig = ModelConfig(channels=64)
parameters: int = sum(weights.numel() for weights in build_model(config).parameters())
recipe: Recipe = Recipe(steps=40, adversarial_weight=1)
run = RunConfig(model=PRESETS["bsrnn"], recipe=recipe, evaluation=Evaluation(mix_back=0.1))
claim = Claim(low=0.1, high=0.2, source="a paper")
factor = Factor(name="wide", levels={"off": {}, "on": {"model.channels": 64}}, claims=(claim,))
study = Study(factors=(factor,), seeds=(1, 2), endpoint=Endpoint(metric="stoi", margin=0.01))
tuned = Study(factors=(factor,), tune=Tuning(space={"recipe.learning_rate": (1e-4, 1e-3)}))
analysis: Analysis = analyze(pd.read_csv("scores.csv"), "core=lstm", "reference")
misspelt = ModelConfig(chanels=64)
"""


@pytest.mark.slow
def test_a_misspelt_field_is_the_only_error(tmp_path: Path) -> None:
    (tmp_path / "ablate").symlink_to(Path(__file__).parents[1])
    (tmp_path / "use.py").write_text(USE)
    command = [sys.executable, "-m", "mypy", "--config-file=", "--follow-imports=silent", "use.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1500)
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert '"chanels"' in errors[0]
    assert errors[0].startswith(f"use.py:{USE[: USE.index('misspelt')].count(chr(10)) + 1}:")
