"""The examples of `examples/trainers`, each killed in the middle, resumed, and taken to its end."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from ablate.studies.study_file import asked

REPOSITORY = Path(__file__).parents[3]
HERE = REPOSITORY / "examples" / "trainers"
SAVED = {
    "hydra": "latest.pt",
    "lightning": "checkpoints/last.ckpt",
    "torchrun": "latest.pt",
    "accelerate": "epochs/1/model.safetensors",
}
PAGES = {"launchers" if name == "torchrun" else name: name for name in SAVED if name != "accelerate"}


@pytest.fixture(scope="module")
def tiny_corpus(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same files, laid out as those of VoiceBank+DEMAND."""
    place = tmp_path_factory.mktemp("voicebank")
    for split in ("train", "test"):
        for kind in ("clean", "noisy"):
            (place / f"{kind}_{split}set_wav").symlink_to(tiny_corpus / split / kind)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("name", SAVED)
def test_an_example_goes_on_where_it_was_killed(name, folder, new_run, go, worker, wait_for, monkeypatch):
    pytest.importorskip("torch" if name == "torchrun" else name)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    shutil.copytree(HERE, folder, dirs_exist_ok=True)
    request = asked(HERE / f"{name}.yaml")
    fields = request.train.model_dump(mode="json", exclude={"folder", "digest", "commit"})
    given = request.grid.cells()[-1].config.overrides | {"epochs": "30"}
    cut, job = new_run(name="c" * 64, given=given, **fields)
    killed = worker(cut, job)
    wait_for(cut.path / "out" / SAVED[name], 1000)
    killed.kill()
    killed.wait()
    assert cut.state.state == "running"
    assert go(cut, job).state == "done", cut.state.message
    assert cut.state.attempts == 2
    whole, _ = new_run(name="d" * 64, given=given, **fields)
    assert go(whole, job).state == "done", whole.state.message
    for run in (cut, whole):
        assert len({line["step"] for line in run.metrics()}) == 30
        assert all("train/loss" in line for line in run.metrics())
        assert run.state.curve_problem is None
        assert "torch" in run.summary["packages"]
    tables = [pd.read_parquet(run.scores_path("plain")) for run in (cut, whole)]
    assert tables[0]["si_sdr"].to_numpy() == pytest.approx(tables[1]["si_sdr"].to_numpy(), abs=0.05)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_the_study_file_of_its_example(page):
    text = (REPOSITORY / "docs" / "trainers" / f"{page}.md").read_text()
    assert (HERE / f"{PAGES[page]}.yaml").read_text().rstrip() in text
