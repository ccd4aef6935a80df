"""Code that nobody has named runs in no command, whatever mentions it. Each command is a process."""

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

from ablate.models.plugins import code_digest, folder_digest
from ablate.studies.plan import save


def evil(path: Path, marker: Path, more: str = "") -> Path:
    """Code that leaves a marker when it runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"open({str(marker)!r}, 'a').write('x')\n{more}")
    return path


@pytest.fixture
def ablate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command line as a user who has trusted nothing yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))

    def run(*words: object, code: int | None = None) -> str:
        done = subprocess.run(
            [sys.executable, "-c", "from ablate.reports.cli import main; main()", *map(str, words)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert code is None or done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture
def copied(study_on_disk, tmp_path: Path):
    """A root that came from elsewhere, whose plan and run directories name a plug-in in it."""
    root = tmp_path / "root"
    code = evil(root / "studies" / "toy" / "plugins" / "0" / "net.py", tmp_path / "ran")
    plugins = {str(code): code_digest(code)}
    study = study_on_disk(root, plugins=plugins)
    for cell, seed in study.slots():
        study.complete(cell, seed)
        run = study.run(cell, seed)
        run.write_spec(study.plan.spec(study.plan.cell(cell), seed).document() | {"plugins": plugins})
    return study


READING = [("report",), ("status",), ("next",), ("logs", "base"), ("export",)]


@pytest.mark.slow
@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_what_reads_a_study_needs_no_trust(ablate, copied, tmp_path, command):
    ablate(*command, "--root", copied.root, code=0)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "digest"),
    [
        *(("audit", digest) for digest in ("as it is", "other", "null")),
        *((command, "as it is") for command in ("ensemble", "enhance --run", "enhance --checkpoint")),
        ("enhance --run", "null"),
    ],
)
def test_what_would_run_its_code_refuses(ablate, copied, tmp_path, command, digest):
    (path, known), *_ = copied.plan.plugins.items()
    told = {path: {"as it is": known, "other": "0" * 64, "null": None}[digest]}
    save(copied.plan.model_copy(update={"plugins": told}), copied.root)
    run = copied.run(*copied.slots()[0])
    run.write_spec(run.spec | {"plugins": told})
    run.checkpoints.mkdir()
    best = run.checkpoints / "best.pt"
    best.write_bytes(b"")
    soundfile.write(tmp_path / "in.wav", np.zeros(16000), 16000)
    words = {
        "audit": ("audit", "toy", "--root", copied.root),
        "ensemble": ("ensemble", "toy", "--root", copied.root),
        "enhance --run": ("enhance", "in.wav", "-o", "out", "--run", run.signature, "--root", copied.root),
        "enhance --checkpoint": ("enhance", "in.wav", "-o", "out", "--checkpoint", best),
    }
    said = ablate(*words[command], code=2)
    assert ("has changed" if digest == "other" else "not trusted") in said
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_worker_refuses_code_that_its_user_has_not_named(copied, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    run = copied.run(*copied.slots()[0])
    run.update_state(state="pending")
    code = (
        "from ablate.training.run import execute; from ablate.training.rundir import RunDir; import sys;"
        "from pathlib import Path;"
        "execute(RunDir(sys.argv[1]), [], cache=Path(sys.argv[2]), threads=1, device='cpu')"
    )
    subprocess.run([sys.executable, "-c", code, run.path, tmp_path / "cache"], check=False)
    assert run.state.state == "failed"
    assert "not trusted" in run.state.message
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_the_class_that_a_plan_names_is_not_imported(ablate, copied, tmp_path):
    from ablate.training.train_command.config import CommandConfig, TrainingCommand

    folder = evil(tmp_path / "sent" / "net.py", tmp_path / "ran", "class Net: pass\n").parent
    train = TrainingCommand(
        command="python train.py {seed} {out} {overrides}",
        folder=str(folder),
        network="net.py:Net",
        digest="0" * 64,
    )
    cells = tuple(cell.model_copy(update={"config": CommandConfig()}) for cell in copied.plan.cells)
    plan = copied.plan.model_copy(update={"train": train, "plugins": {}, "cells": cells})
    save(plan, copied.root)
    assert "not trusted" in ablate("audit", "toy", "--root", copied.root, code=2)
    assert not (tmp_path / "ran").exists()
    ablate("audit", f"{folder / 'net.py'}:Net")
    assert (tmp_path / "ran").exists()


PART = """
import torch
from ablate.models import ARCHITECTURES, PRESETS, ModelConfig
class Net(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        exec((config.folder("source") / "code.py").read_text())
        self.scale = torch.nn.Parameter(torch.ones(1))
    def forward(self, noisy):
        return self.scale * noisy
ARCHITECTURES.register("scaled-of-test", Net)
PRESETS["scaled-of-test"] = ModelConfig(architecture="scaled-of-test", options={"source": "path:"})
"""


@pytest.mark.slow
def test_a_folder_that_a_plan_gives_to_a_trusted_plugin_is_not_imported(ablate, copied, tmp_path):
    (tmp_path / "mine").mkdir()
    code = tmp_path / "mine" / "scaled.py"
    code.write_text(PART)
    folders = {name: evil(tmp_path / name / "code.py", tmp_path / "ran").parent for name in ("mine2", "sent")}
    named = ("--plugin", code, "--option", f"source={folders['mine2']}")
    ablate("audit", "scaled-of-test", *named)
    (tmp_path / "ran").unlink()
    text = json.loads((copied.folder / "plan.json").read_text())
    text["plugins"] = {str(code): code_digest(code)}
    for cell in text["cells"]:
        value = f"path:{folders['sent']}@{folder_digest(folders['sent'])}"
        cell["config"]["model"] |= {"architecture": "scaled-of-test", "options": {"source": value}}
    (copied.folder / "plan.json").write_text(json.dumps(text))
    assert "not trusted" in ablate("audit", "toy", "--root", copied.root)
    assert not (tmp_path / "ran").exists()
    (copied.folder / "plan.json").write_text(
        (copied.folder / "plan.json").read_text().replace(str(folders["sent"]), str(folders["mine2"]))
    )
    ablate("audit", "toy", "--root", copied.root)
    assert (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_plan_on_a_tracking_server_imports_nothing(ablate, copied, schema, tmp_path):
    from ablate.studies.tracking import mirror

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    shutil.copyfile(schema, tmp_path / "mlflow.db")
    mirror(copied.root, "toy", uri)
    (tmp_path / "ran").unlink(missing_ok=True)
    ablate("report", "--tracking-uri", uri, "--experiment", "toy")
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_code_that_is_named_is_trusted_until_it_changes(ablate, copied, tmp_path):
    (path, _), *_ = copied.plan.plugins.items()
    ablate("models", "--plugin", path, code=0)
    (tmp_path / "ran").unlink()
    ablate("audit", "toy", "--root", copied.root)
    assert (tmp_path / "ran").exists()
    (tmp_path / "ran").unlink()
    moved = tmp_path / "elsewhere" / "net.py"
    moved.parent.mkdir()
    shutil.copy(path, moved)
    changed = copied.plan.model_copy(update={"plugins": {str(moved): code_digest(moved)}})
    save(changed, copied.root)
    assert "not trusted" in ablate("audit", "toy", "--root", copied.root, code=2)
    save(copied.plan, copied.root)
    with Path(path).open("a") as file:
        file.write("# changed\n")
    assert "has changed" in ablate("audit", "toy", "--root", copied.root, code=2)
    assert not (tmp_path / "ran").exists()


def test_trust_stands_in_the_users_configuration(tmp_path, monkeypatch):
    from ablate.models import trust
    from ablate.models.errors import InputError

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    assert trust.folder() == tmp_path / "configuration" / "ablate" / "trusted"
    code = tmp_path / "net.py"
    assert not trust.is_trusted(code, "a" * 64)
    trust.grant(code, "a" * 64)
    trust.grant(code, "a" * 64)
    assert trust.is_trusted(code, "a" * 64)
    assert not trust.is_trusted(tmp_path / "other.py", "a" * 64)
    assert not trust.is_trusted(code, "b" * 64)
    assert trust.is_known("a" * 64)
    assert not trust.is_known("b" * 64)
    assert len(os.listdir(trust.folder())) == 1
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert trust.folder() == tmp_path / "home" / ".config" / "ablate" / "trusted"
    (tmp_path / "home").write_text("a file")
    with pytest.raises(InputError, match="XDG_CONFIG_HOME"):
        trust.grant(code, "a" * 64)
