from __future__ import annotations

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
import soundfile
from typer.testing import CliRunner

from ablate.reports.build import report_of, report_of_study
from ablate.reports.cli import app
from ablate.reports.elsewhere import Elsewhere
from ablate.studies.plan import load
from ablate.training.metrics.registry import METRICS

FILES = [f"f{i}" for i in range(6)]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABLATE_ROOT", str(tmp_path / "root"))
    return tmp_path


def rows(files=FILES, seeds=(1, 2, 3), cores=("lstm", "mamba"), first=0.0):
    """A row for each run and file; every value is another."""
    for core in cores:
        for seed in seeds:
            for i, name in enumerate(files):
                value = 2 + 0.2 * (core == "mamba") + 0.013 * seed**2 + 0.1 * i + 0.001 * seed * i + first
                yield {"core": core, "random_seed": seed, "file": name, "PESQ": value}


def write(path="runs.csv", **changes):
    pd.DataFrame(rows(**changes)).to_csv(path, index=False)
    return path


def call(*words, code=0):
    result = CliRunner().invoke(app, words, catch_exceptions=True)
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return str(result.exception) if code else result.output


def bring(*words, code=0, source="runs.csv"):
    return call("import-runs", "--scores", source, "--factors", "core", *words, code=code)


def effects(report):
    wanted = ["name", "kind", "estimate", "se", "df", "low", "high", "p"]
    return report.analysis.effects[wanted].reset_index(drop=True)


def test_the_study_says_what_the_table_says(here):
    write()
    bring("--study", "s")
    direct = report_of(*Elsewhere(scores="runs.csv", factors="core").read())
    pd.testing.assert_frame_equal(effects(report_of_study(here / "root", "s")), effects(direct))


def test_every_command_of_a_study_works(here):
    write()
    assert "but not train more" in bring("--study", "s")
    status = json.loads(call("status", "s", "--format", "json"))
    assert [run["state"] for run in status["runs"]] == ["done"] * 6
    assert "core=mamba" in call("next", "s")
    assert "SD between runs" in call("compare", "2.3", "--with", "2.5", "--study", "s")
    assert "pilot s" in call("power", "--grid", "bidirectional", "--pilot", "s")
    page = call("report", "s")
    assert re.search("trained elsewhere +6 of 6 runs, from runs.csv", page)
    assert "it is not known which weights were tested and how they were chosen" in page
    assert "same settings" not in page
    assert "imported from runs.csv, without code to audit" in call("audit", "s", code=1)
    call("export", "s", "-o", "s.tar.gz")
    call("import", "s.tar.gz", "--root", "other")
    pd.testing.assert_frame_equal(
        effects(report_of_study(here / "root", "s")), effects(report_of_study(here / "other", "s"))
    )


def test_more_seeds_extend_it_and_other_scores_are_refused(here):
    bring("--study", "s", source=write())
    bring("--study", "s", source=write(seeds=(1, 2, 3, 4)))
    assert [cell.seeds for cell in load(here / "root", "s").cells] == [(1, 2, 3, 4)] * 2
    said = bring("--study", "s", source=write(seeds=(1, 2), first=0.5), code=1)
    assert "base, seed 1 exists under" in said
    assert "other scores" in said
    said = bring("--study", "s", source=write(files=FILES[:3]), code=1)
    assert "test_digest" in said


def test_absent_combinations_and_a_baseline_stay_out_of_the_design(here):
    frame = pd.DataFrame(
        {
            "core": ["lstm", "lstm", "mamba", None],
            "direction": ["uni", "bi", "uni", None],
            "cell": ["a", "b", "c", "theirs"],
            "seed": [1, 1, 1, 1],
            "pesq_wb": [2.0, 2.1, 2.2, 2.5],
        }
    )
    pd.concat([frame, frame.assign(seed=2, pesq_wb=frame["pesq_wb"] + 0.01 * frame.index)]).to_csv("t.csv")
    call("import-runs", "--scores", "t.csv", "--factors", "core,direction", "--baseline", "theirs")
    plan = load(here / "root", "t")
    assert plan.cell_names == ["base", "direction=bi", "core=mamba", "baseline"]
    assert plan.constraints == ({"core": "mamba", "direction": "bi"},)
    gap = report_of_study(here / "root", "t").analysis.effects.set_index("name").loc["gap", "estimate"]
    assert gap == pytest.approx(0.5 + 0.015)


def test_large_seeds_and_odd_levels_are_made_ours_and_said(here):
    frame = pd.DataFrame(rows(seeds=(20_260_001, 20_260_002))).replace({"mamba": "Mamba (2 layers)"})
    frame["PESQ"] = [2 + i / 7 % 1 for i in range(len(frame))]
    frame.to_csv("runs.csv", index=False)
    assert "Seeds 20260001, 20260002 are numbered from 1" in bring("--study", "s")
    plan = load(here / "root", "s")
    assert plan.cell_names == ["base", "core=Mamba__2_layers_"]
    assert plan.seeds == (1, 2)


def test_a_measure_of_ones_own_keeps_its_direction(here, request):
    request.addfinalizer(lambda: METRICS.pop("wer", None))
    frame = pd.DataFrame(rows()).rename(columns={"PESQ": "wer"})
    frame.to_csv("runs.csv", index=False)
    assert "--direction wer=higher" in bring("--metric", "wer", "--study", "s", code=1)
    bring("--metric", "wer", "--direction", "wer=lower", "--study", "s")
    assert "a positive effect is a loss" in call("report", "s")


def test_what_is_measured_here_keeps_its_passport(here):
    random = np.random.default_rng(0)
    (here / "clean").mkdir()
    clean = {name: 0.1 * random.standard_normal(24_000) for name in FILES[:2]}
    for name, signal in clean.items():
        soundfile.write(here / "clean" / f"{name}.wav", signal, 16_000)
    for core, level in (("lstm", 0.1), ("mamba", 0.05)):
        for seed in (1, 2):
            folder = here / "exp" / core / str(seed)
            folder.mkdir(parents=True)
            for name, signal in clean.items():
                noisy = signal + level * random.standard_normal(24_000)
                soundfile.write(folder / f"{name}.wav", noisy, 16_000)
    source = ("--enhanced", "exp/{core}/{seed}", "--clean", "clean", "--metric", "si_sdr")
    source += ("--noisy", "clean")
    call("import-runs", *source, "--study", "s")
    for words in (source, ("s",)):
        page = call("report", *words)
        assert re.search("measured by +SI-SDR, ablate", page)
        assert "noisy input, unprocessed" in page


def curve(core, seed):
    """Steps with a loss, and scores of validation and test under another tool's names."""
    height = 2 + 0.2 * (core == "mamba") + 0.013 * seed**2
    for step, (val, test) in enumerate(
        [(1.5, 1.4), (height + 0.1, height), (height, height + 0.05)], start=1
    ):
        yield {"step": 100 * step, "loss": 1 / step, "valid_PESQ": val, "test/PESQ": test}


@pytest.mark.parametrize("seeds", [(1, 2, 3), (20_260_001, 20_260_002)])
def test_curves_of_a_source_stay_with_its_runs(here, seeds):
    for core in ("lstm", "mamba"):
        for seed in seeds:
            (here / f"{core}-{seed}.json").write_text(json.dumps(list(curve(core, seed % 1000))))
    source = ("--scores", "{core}-{seed}.json", "--factors", "core", "--column", "pesq_wb=test/PESQ")
    call("import-runs", *source, "--study", "s")
    status = json.loads(call("status", "s", "--format", "json"))
    assert {run["step"] for run in status["runs"]} == {300}
    assert {run["val_pesq_wb"] for run in status["runs"]} >= {2.113, 2.313}
    direct = report_of(*Elsewhere(scores=source[1], factors="core", column=[source[5]]).read())
    kept = report_of_study(here / "root", "s")
    assert [(c.steps, c.mean) for c in kept.curves] == [(c.steps, c.mean) for c in direct.curves]
    assert kept.curves[0].steps == (100, 200, 300)
    priced = "Choosing the best of 3 or more checkpoints on the test set would change each run by +0.050"
    assert priced in call("report", *source).replace("\n", " ")
    assert priced in call("report", "s").replace("\n", " ")


def test_an_old_log_is_a_curve_on_the_test_set(here):
    line = "INFO:root:TEST - Generator loss: 0.05, Discriminator loss: 0.02, PESQ: {:.4f}\n"
    for core in ("lstm", "mamba"):
        for seed in (1, 2):
            values = [row["test/PESQ"] for row in curve(core, seed)]
            (here / f"{core}-{seed}.log").write_text("".join(map(line.format, values)))
    source = ("--scores", "{core}-{seed}.log", "--factors", "core", "--column", "pesq_wb=test/pesq_wb")
    call("import-runs", *source, "--study", "s")
    found = report_of_study(here / "root", "s")
    assert effects(found)["estimate"].iloc[0] == pytest.approx(0.2)
    assert [line["step"] for line in found.info.runs[0].metrics] == [0, 1, 2]
    (here / "lstm-3.log").write_text(
        "".join(f"Epoch {epoch}, Step 1, loss: 1\n" + line.format(2) for epoch in (0, 1, 0))
    )
    assert "lstm-3.log is the log of 2 trainings" in call("import-runs", *source, "--study", "t", code=1)


TRAIN = """
import argparse, pathlib, numpy as np, soundfile as sf
p = argparse.ArgumentParser()
p.add_argument("--seed", type=int); p.add_argument("--out", type=pathlib.Path)
p.add_argument("--data", type=pathlib.Path); p.add_argument("--core")
a = p.parse_args()
rows = ["utterance,pesq_wb"]
for i, f in enumerate(sorted((a.data / "test" / "noisy").glob("*.wav"))):
    rows.append(f"{f.stem},{2 + .2 * (a.core == 'mamba') + .013 * a.seed**2 + .1 * i + .001 * a.seed * i}")
(a.out / "scores.csv").write_text("\\n".join(rows))
"""


def study_file(here):
    random = np.random.default_rng(0)
    for split, names in (("train", ["p1_001", "p2_001"]), ("test", FILES)):
        for kind in ("clean", "noisy"):
            folder = here / "data" / split / kind
            folder.mkdir(parents=True)
            for name in names:
                soundfile.write(folder / f"{name}.wav", 0.1 * random.standard_normal(16_000), 16_000)
    (here / "train.py").write_text(TRAIN)
    (here / "study.yaml").write_text(
        f'train: {{command: "{sys.executable} train.py --seed {{seed}} --out {{out}} --data {{data}} '
        '{overrides}", code: [train.py]}\n'
        "factors: {core: {levels: [lstm, mamba]}}\nbaseline: none\ndata: data\nscores: scores.csv\n"
    )


def test_with_a_study_file_levels_and_files_have_to_be_its_own(here):
    study_file(here)
    said = call("import-runs", "study.yaml", "--scores", write(files=FILES[1:]), code=1)
    assert "do not have the same test files" in said
    assert "only in the corpus: f0" in said
    said = call("import-runs", "study.yaml", "--scores", write(cores=("lstm", "gru")), code=1)
    assert "core=gru of cell" in said
    assert "lstm, mamba" in said
    frame = pd.DataFrame(rows()).groupby(["core", "random_seed"], as_index=False)["PESQ"].mean()
    frame.to_csv("means.csv")
    said = call("import-runs", "study.yaml", "--scores", "means.csv", code=1)
    assert "one value per run" in said


@pytest.mark.slow
def test_further_seeds_are_trained_by_the_study_file(here):
    study_file(here)
    call("import-runs", "study.yaml", "--scores", write(seeds=(1, 2)), "--study", "s")
    call("run", "study.yaml", "--study", "s", "--seeds", "3", "--waive", "all")
    plan = load(here / "root", "s")
    assert [cell.seeds for cell in plan.cells] == [(1, 2, 3)] * 2
    page = call("report", "s")
    assert re.search("trained elsewhere +4 of 6 runs, from runs.csv", page)
    write("all.csv")
    direct = report_of(*Elsewhere(scores="all.csv", factors="core").read())
    pd.testing.assert_frame_equal(effects(report_of_study(here / "root", "s")), effects(direct))
