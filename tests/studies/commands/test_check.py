"""`ablate check`: one short run of a training command."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from ablate.models.errors import InputError
from ablate.reports.cli import app

TOY = Path(__file__).parents[2] / "training" / "train_command" / "toy.py"
STUDY = """
train:
  command: {python} toy.py --seed {{seed}} --out {{out}} --data {{data}} {{overrides}}
  folder: {folder}
  code: toy.py
factors:
  gain: {{levels: {{off: {{gain: "0.90"}}, on: {{gain: 1.0}}}}}}
check: {{mode: {mode}}}
endpoint: {{metric: si_sdr, margin: 1}}
data: {data}
scores: enhanced/
curve: metrics.jsonl
"""


def checked(tmp_path: Path, corpus: Path, mode: str):
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.format(python=sys.executable, folder=TOY.parent, data=corpus, mode=mode))
    return CliRunner().invoke(app, ["check", str(file), "--root", str(tmp_path / "root")])


@pytest.mark.slow
def test_what_a_command_leaves_is_shown_and_no_study_is_begun(tmp_path, corpus):
    found = checked(tmp_path, corpus, "well")
    assert found.exit_code == 0, found.output
    assert "--gain 0.90" in found.output or "gain=0.90" in found.output
    assert "command: done" in found.output
    assert "mean si_sdr" in found.output
    assert "curve: 2 steps up to 20: train/loss, val/pesq_wb" in found.output
    assert not (tmp_path / "root" / "studies").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "said"), [("failing", "the learning rate is a fish"), ("silent", "enhanced")]
)
def test_what_does_not_fit_ends_with_3(tmp_path, corpus, mode, said):
    found = checked(tmp_path, corpus, mode)
    assert found.exit_code == 3, found.output
    assert said in found.output


def test_a_study_that_ablate_trains_itself_is_refused(tmp_path):
    (tmp_path / "study.yaml").write_text("grid: bidirectional\n")
    refused = CliRunner().invoke(app, ["check", str(tmp_path / "study.yaml")]).exception
    assert isinstance(refused, InputError)
    assert "no train.command" in str(refused)


def test_run_has_at_most_thirty_options():
    run = get_command(app).commands["run"]
    assert len([option for option in run.params if option.opts[0].startswith("--")]) <= 30
