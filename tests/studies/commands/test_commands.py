from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from ablate.ablations.grid import parse_factors
from ablate.reports.cli import app, main
from ablate.studies import plan as plans
from ablate.studies.study import Study


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    draw = np.random.default_rng(0)
    for split, speakers in (("train", ("a", "b", "c")), ("test", ("d",))):
        for kind in ("clean", "noisy"):
            (folder / split / kind).mkdir(parents=True)
        for speaker in speakers:
            speech = 0.1 * draw.standard_normal(16000)
            soundfile.write(folder / split / "clean" / f"{speaker}_1.wav", speech, 16000)
            noisy = speech + 0.05 * draw.standard_normal(16000)
            soundfile.write(folder / split / "noisy" / f"{speaker}_1.wav", noisy, 16000)
    return folder


@pytest.fixture
def ablate(monkeypatch, capsys, tmp_path):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["ablate", *map(str, words)])
        monkeypatch.setenv("ABLATE_ROOT", str(tmp_path / "root"))
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return ended.value.code or 0, shown.out, shown.err

    return call


def test_dry_run_shows_cells_sizes_and_signatures(ablate, corpus):
    code, out, _ = ablate(
        *("run", "--grid", "bidirectional,pcs", "--data", corpus, "--seeds", "2", "--dry-run"),
        *("--format", "json"),
    )
    document = json.loads(out)
    assert code == 0
    assert [cell["name"] for cell in document["cells"]] == [
        "base",
        "pcs",
        "bidirectional",
        "bidirectional+pcs",
        "baseline",
    ]
    base, pcs = document["cells"][:2]
    assert base["levels"] == {"bidirectional": "off", "pcs": "off"}
    assert base["config"]["model"]["direction"] == "uni"
    assert isinstance(base["parameters"], int)
    assert base["signatures"].keys() == {"1", "2"}
    assert base["signatures"] == pcs["signatures"]
    assert base["estimate"]["seconds_per_step"] > 0
    assert base["estimate"]["memory_bytes"] > base["parameters"] * 16
    assert base["done"] == []


def test_a_dry_run_of_many_networks_times_nothing(ablate, corpus, monkeypatch):
    from ablate.studies.commands import dry_run

    monkeypatch.setattr(dry_run, "TIMED", 2)
    monkeypatch.setattr(dry_run, "_costs", lambda *_: pytest.fail("nothing is to be timed"))
    words = ("run", "--grid", "bidirectional", "--data", corpus, "--seeds", "1", "--dry-run")
    code, out, _ = ablate(*words, "--format", "json")
    assert code == 0
    assert [cell["estimate"] for cell in json.loads(out)["cells"]] == [None] * 3
    shown = ablate(*words)[1]
    assert "not timed" in shown
    assert json.loads(out)["cells"][0]["signatures"]["1"][:8] in shown


BROKEN = """
import torch
from ablate.models import ARCHITECTURES, PRESETS, ModelConfig

class Net(torch.nn.Module):
    def __init__(self, wrong):
        super().__init__()
        self.gain, self.wrong = torch.nn.Parameter(torch.ones(1)), wrong

    def forward(self, noisy):
        return self.gain * (noisy + noisy[..., :self.wrong] if self.wrong else noisy)

ARCHITECTURES.register("breaks", lambda c: Net(c.options["wrong"]))
PRESETS["breaks"] = ModelConfig(architecture="breaks", options={"wrong": 0})
"""


def test_a_network_of_ones_own_that_does_not_run_is_named_with_its_line(
    ablate, corpus, tmp_path, monkeypatch
):
    from ablate.models import ARCHITECTURES, PRESETS

    monkeypatch.setattr(ARCHITECTURES, "_parts", dict(ARCHITECTURES._parts))
    (tmp_path / "breaking_net.py").write_text(BROKEN)
    code, out, err = ablate(
        *("run", "--plugin", tmp_path / "breaking_net.py", "--base", "breaks", "--baseline", "none"),
        *("--grid", "options.wrong=0,7", "--data", corpus, "--seeds", "1", "--dry-run"),
    )
    PRESETS.pop("breaks")
    assert (code, out) == (2, "")
    assert "error: cell options.wrong=7: the network does not run on (1, 257," in err
    assert f"({tmp_path / 'breaking_net.py'}:11)" in err


def test_lengths_stand_in_the_dry_run_and_in_the_status(ablate, corpus, tmp_path):
    words = ("run", "--grid", "bidirectional", "--data", corpus, "--seeds", "1", "--study", "lengths")
    words = (*words, "--step-fractions", "0.5,1", "--dry-run")
    document = json.loads(ablate(*words, "--format", "json")[1])
    (half,) = document["step_fractions"]
    assert (half["step_fraction"], {cell["steps"] for cell in half["cells"]}) == (0.5, {20})
    own = {signature for cell in document["cells"] for signature in cell["signatures"].values()}
    other = {signature for cell in half["cells"] for signature in cell["signatures"].values()}
    assert len(own | other) == 6
    shown = ablate(*words)[1]
    assert "base at 0.5" in shown
    assert "6 distinct runs (3 runs of 3 cells x 2 step budgets)" in shown
    fields = {"factors": parse_factors("bidirectional"), "data": str(corpus), "seeds": (1,)}
    request = Study(**fields, name="lengths", step_fractions="0.5,1")
    plans.save(plans.make(request, tmp_path / "root")[0], tmp_path / "root")
    runs = json.loads(ablate("status", "--format", "json")[1])["runs"]
    assert [(run["step_fraction"], run["steps"]) for run in runs] == [(1.0, 40)] * 3 + [(0.5, 20)] * 3
    assert "length" in ablate("status")[1]


def test_a_dry_run_says_what_a_width_would_take(ablate, corpus):
    words = ("run", "--grid", "bidirectional", "--data", corpus, "--dry-run")
    _, _, said = ablate(*words, "--target-half-width", "0.01")
    assert "at typical variances" in said
    assert "at typical variances" not in ablate(*words, "--target-half-width", "9")[2]
    code, _, said = ablate(*words, "--target-half-width", "0")
    assert (code, "is not above zero" in said) == (2, True)


def test_a_split_drawn_by_the_seed_is_asked_for(ablate, corpus):
    words = ("run", "--grid", "bidirectional", "--data", corpus, "--seeds", "1", "--dry-run")
    found = [
        json.loads(ablate(*words, *more, "--format", "json")[1])
        for more in ((), ("--set", "recipe.split=seed"))
    ]
    fixed, drawn = (document["cells"][0] for document in found)
    assert (fixed["config"]["recipe"]["split"], drawn["config"]["recipe"]["split"]) == ("fixed", "seed")
    assert fixed["signatures"] != drawn["signatures"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--grid", "bidirectonal"), "did you mean 'bidirectional'"),
        (("--grid", "pcs=off,maybe"), "no level 'maybe'"),
        (("--grid", "bidirectional,bidirectional"), "is given twice"),
        ((), "no grid"),
        (("--grid", "bidirectional", "--data", "/nowhere/at/all"), "/nowhere/at/all"),
        (("--grid", "bidirectional", "--seeds", "0"), "seeds '0'"),
        (("--grid", "bidirectional", "--set", "recipe.stepz=1"), "did you mean 'recipe.steps'"),
        (("--grid", "bidirectional", "--recipe", "quik"), "did you mean 'quick'"),
        (("--grid", "bidirectional", "--base", "mbsnt"), "did you mean 'mbsnet'"),
        (("--grid", "recipe.losses.si_sdr=0,1"), "set recipe.si_sdr_weight instead"),
        (("--grid", "bidirectional", "--waive", "A999"), "unknown audit code 'A999'"),
        (("--grid", "bidirectional", "--plugin", "nowhere.py"), "nowhere.py"),
        (("missing.yaml",), "missing.yaml"),
        (("--grid", "bidirectional", "--slurm", "time=60"), "do not apply to the launcher 'local'"),
        (("--grid", "bidirectional", "--claims", "publishd"), "no such file; give 'published'"),
        (("--grid", "bidirectional", "--step-fractions", "half"), "step fractions 'half'"),
        (("--grid", "bidirectional", "--data", "CORPUS", "--step-fractions", "0.33"), "not a whole number"),
        (("--grid", "bidirectional", "--format", "xml"), "unknown format 'xml'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(ablate, corpus, words, said, tmp_path):
    code, out, err = ablate("run", *(corpus if word == "CORPUS" else word for word in words))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert said in err
    assert not (tmp_path / "root" / "studies").exists()


def test_a_dry_run_of_another_plan_is_refused_as_the_run_would_be(ablate, corpus, tmp_path):
    request = Study(factors=parse_factors("bidirectional"), data=str(corpus), seeds=(1,), name="known")
    plans.save(plans.make(request, tmp_path / "root")[0], tmp_path / "root")
    same = ("run", "--grid", "bidirectional", "--data", corpus, "--study", "known", "--dry-run")
    assert ablate(*same, "--format", "json")[0] == 0
    code, out, err = ablate(*same, "--set", "recipe.steps=7")
    assert (code, out) == (5, "")
    assert "recipe.steps: 40 -> 7" in err


def test_a_study_name_cannot_leave_its_folder(ablate, corpus):
    code, _, err = ablate("run", "--grid", "bidirectional", "--data", corpus, "--study", "../x")
    assert code == 2
    assert "study name '../x'" in err


def test_another_plan_of_the_same_name_is_refused(ablate, corpus, tmp_path):
    from ablate.ablations.grid import parse_factors
    from ablate.studies import plan as plans
    from ablate.studies.study import Study

    request = Study(factors=parse_factors("bidirectional"), data=str(corpus), name="mine")
    root = tmp_path / "root"
    plans.save(plans.make(request, root)[0], root)
    words = ("run", "--grid", "bidirectional", "--data", corpus, "--study", "mine")
    code, _, err = ablate(*words, "--set", "recipe.steps=7")
    assert code == 5
    assert "recipe.steps: 40 -> 7" in err
    code, out, _ = ablate("status", "mine", "--format", "json")
    assert code == 0
    assert json.loads(out)["counts"] == {"pending": 9}
    code, _, err = ablate("logs", "bidirectonal", "--study", "mine")
    assert code == 2
    assert "its cells: base, bidirectional, baseline" in err


def test_status_without_a_study_says_so(ablate):
    code, out, err = ablate("status")
    assert (code, out) == (2, "")
    assert "no study under" in err


@pytest.mark.parametrize("command", ["report", "status", "ensemble", "next", "export", "sync", "ui"])
def test_a_shell_completes_to_the_names_of_studies(monkeypatch, capsys, tmp_path, command):
    for name in ("first", "second"):
        (tmp_path / "studies" / name).mkdir(parents=True)
        (tmp_path / "studies" / name / "plan.json").touch()
    for key, value in {
        "ABLATE_ROOT": str(tmp_path),
        "_ABLATE_COMPLETE": "complete_bash",
        "COMP_WORDS": f"ablate {command} s",
        "COMP_CWORD": "2",
    }.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(SystemExit):
        app(prog_name="ablate")
    assert capsys.readouterr().out.split() == ["second"]


def test_a_reason_that_several_runs_failed_for_stands_once():
    from ablate.models.console import console
    from ablate.studies.commands.status import _status_view

    run = {"cell": "base", "step_fraction": 1.0, "state": "failed", "step": 3, "steps": None}
    run |= {"val_pesq_wb": None, "curve_problem": None}
    run |= {"seconds_per_step": None, "attempts": 1, "cause": "output", "message": "left no enhanced"}
    run |= {"evaluation": None}
    runs = [run | {"seed": seed} for seed in (1, 2)] + [run | {"seed": 3, "message": "left no scores.csv"}]
    read = {"study": "s", "counts": {"failed": 3}, "seconds_left": None, "runs": runs}
    out = console(io.StringIO())
    out.print(_status_view(read, out))
    assert out.file.getvalue().splitlines()[-2:] == [
        "base seed 1, base seed 2: output: left no enhanced",
        "base seed 3: output: left no scores.csv",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", ["100m"], indirect=True)
def test_a_full_disk_and_a_read_only_root_are_told_as_that(small_disk, corpus, schema):
    root = small_disk / "root"
    root.mkdir()
    shutil.copy(schema, root / "mlflow.db")
    words = ["run", "--grid", "bidirectional", "--baseline", "none", "--data", str(corpus), "--study", "s"]
    short = ("steps=2", "crop_seconds=0.5", "batch_size=2", "validation_utterances=1")
    words += [word for field in short for word in ("--set", f"recipe.{field}")]
    words += ["--waive", "all", "--jobs", "1"]

    def ablate(*words):
        line = [
            sys.executable,
            "-P",
            "-c",
            "from ablate.reports.cli import main; main()",
            *words,
            "--root",
            str(root),
        ]
        environment = os.environ | {"ABLATE_ROOT": str(root), "PYTHONPATH": ""}
        return subprocess.run(line, capture_output=True, text=True, check=False, env=environment)

    assert ablate(*words, "--seeds", "1").returncode == 0
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(b"\0" * (100 << 20))
    full = ablate(*words, "--seeds", "2")
    assert (full.returncode, full.stderr.count("Traceback")) == (4, 0), full.stderr
    assert "the disk is full" in full.stderr
    assert "2 of 4 runs are done" in full.stderr
    filler.unlink()
    assert ablate(*words, "--seeds", "2").returncode == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert ablate("status", "s").returncode == 0
    assert ablate("report", "s").returncode == 0
    closed = ablate(*words, "--seeds", "3")
    assert closed.returncode == 4
    assert "the file system is read-only" in closed.stderr
    assert "4 of 6 runs are done" in closed.stderr
