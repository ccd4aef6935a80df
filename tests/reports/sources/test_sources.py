from __future__ import annotations

import os
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pandas as pd
import pytest
from typer.testing import CliRunner

from ablate.models.errors import InputError
from ablate.reports.build import report_of_study
from ablate.reports.caveats import run_problems
from ablate.reports.cli import app
from ablate.reports.elsewhere import Elsewhere
from ablate.reports.ingest import parse_levels
from ablate.reports.sources import scores_from_mlflow, scores_from_study
from ablate.studies.plan import find, load, run_dirs
from ablate.studies.tracking import mirror


def test_study_gives_long_scores_and_what_is_known(planted_root):
    scores, info = scores_from_study(planted_root)
    assert len(scores) == 9 * 3 * 24
    assert list(scores.columns[:4]) == ["cell", "bidirectional", "decoder4x", "crossband"]
    assert {"seed", "utterance", "speaker", "snr", "noise", "training", "status", "pesq_wb"} <= set(scores)
    assert scores.loc[scores["cell"] == "baseline", "crossband"].isna().all()
    assert info.base == {"bidirectional": "off", "decoder4x": "off", "crossband": "pointwise"}
    assert info.baseline == "baseline"
    assert len(info.runs) == 27
    assert {run.state for run in info.runs} == {"done"}
    assert len(info.runs[0].metrics) == 4


def test_scores_belong_to_their_runs(planted_root):
    scores, info = scores_from_study(planted_root)
    run = next(r for r in info.runs if r.cell == "baseline" and r.seed == 2)
    path = planted_root / "runs" / run.training / "scores" / f"{run.evaluation}.parquet"
    expected = pd.read_parquet(path)
    got = scores[(scores["cell"] == "baseline") & (scores["seed"] == 2)]
    assert list(got["utterance"]) == list(expected["utterance"])
    assert got["pesq_wb"].to_numpy() == pytest.approx(expected["pesq_wb"].to_numpy())
    assert set(got["training"]) == {run.training}


def test_diverged_and_missing_runs(tmp_path, make_study):
    cell = "bidirectional=on,decoder4x=off"
    factors = ("bidirectional", "decoder4x")
    make_study(tmp_path, factors=factors, diverged=[(cell, 1)], missing=[(cell, 2)], utterances=4)
    scores, info = scores_from_study(tmp_path)
    states = {run.seed: run.state for run in info.by_cell[cell]}
    assert states == {1: "diverged", 2: "pending", 3: "done"}
    gone = scores[scores["status"] == "diverged"]
    assert len(gone) == 1
    assert gone["pesq_wb"].isna().all()
    assert gone["cell"].iloc[0] == cell


def test_default_study_is_the_most_recent_and_errors_list_names(tmp_path, make_study):
    for age, name in enumerate(["new", "old"]):
        make_study(tmp_path, name=name, factors=("crossband",), seeds=1, utterances=2)
        os.utime(tmp_path / "studies" / name / "plan.json", (1000 - age, 1000 - age))
    assert find(tmp_path) == "new"
    with pytest.raises(InputError, match=r"no study 'odl' under .*; did you mean 'old'.*Known: new, old"):
        find(tmp_path, "odl")
    with pytest.raises(InputError, match="ablate run"):
        find(tmp_path / "nowhere")


def test_no_scores_yet_gives_an_empty_frame(tmp_path, make_study):
    runs = [(f"crossband={level}", 1) for level in ("pointwise", "bilstm")] + [("baseline", 1)]
    make_study(tmp_path, factors=("crossband",), seeds=1, missing=runs)
    scores, info = scores_from_study(tmp_path)
    assert scores.empty
    assert [run.state for run in info.runs] == ["pending"] * 3


def test_a_failed_evaluation_is_no_failed_training(tmp_path, make_study):
    lost = ("crossband=bilstm", 1)
    root = make_study(tmp_path, factors=("crossband",), missing=[lost])
    plan = load(root)
    run, evaluation = run_dirs(plan, root)[lost], plan.cell(lost[0]).evaluations[1]
    run.update_state(state="done", attempts=1)
    run.update_evaluation(evaluation, state="failed", attempts=1, cause="error", message="no measure 'mine'")
    report = report_of_study(root)
    assert run_problems(report) == ["crossband=bilstm, seed 1: done, evaluation failed (error)"]
    (told,) = [each for each in report.info.runs if (each.cell, each.seed) == lost]
    assert (told.state, told.cause, told.message, told.scored) == (
        "done",
        "error",
        "no measure 'mine'",
        False,
    )


def test_damaged_plan_is_refused(tmp_path):
    study = tmp_path / "studies" / "s"
    study.mkdir(parents=True)
    (study / "plan.json").write_text('{"format": 99, "cells": []}')
    with pytest.raises(ValueError, match="format 1, found 99"):
        scores_from_study(tmp_path)


def read(path, base, baseline=None):
    return Elsewhere(scores=str(path), base=base, baseline=baseline).read()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_file_equals_the_run_directories(planted_root, tmp_path, suffix):
    scores, info = scores_from_study(planted_root)
    path = tmp_path / f"scores.{suffix}"
    if suffix == "csv":
        scores.to_csv(path, index=False)
    else:
        scores.to_parquet(path)
    again, other = read(path, ",".join(f"{name}={level}" for name, level in info.base.items()), "baseline")
    assert other.base == info.base
    assert again["pesq_wb"].to_numpy() == pytest.approx(scores["pesq_wb"].to_numpy())
    for name in ("cell", "crossband", "utterance", "speaker", "training"):
        assert list(again[name].astype("object").fillna("")) == list(scores[name].astype("object").fillna(""))
    assert list(again["seed"]) == list(scores["seed"])


@pytest.mark.parametrize(
    ("changes", "base", "baseline", "message"),
    [
        ({"drop": "seed"}, "f=off", "b", "no column 'seed'"),
        ({"drop": "f"}, "f=off", "b", "no column 'f' for a factor"),
        ({}, "f=nope", "b", r"no base cell with f=nope; levels in the file: f: off, on"),
        ({}, "f=off", "bb", r"no cell 'bb'.*Known: x, y, b"),
        ({}, "f", "b", "'f' in 'f' is not of the form factor=level"),
        ({}, "", "b", "--scores does not say which columns are factors"),
        ({"pesq_wb": "good"}, "f=off", "b", "pesq_wb is not a number in row 2: 'good'"),
        ({"seed": "one"}, "f=off", "b", "the seed in row 2 is not a whole number: 'one'"),
        ({"status": "lost"}, "f=off", "b", "'lost' is not done, diverged"),
        ({"cell": "x"}, "f=off", None, r"cell 'x', seed 1, utterance 'u' has several rows \(2, 3, 4\)"),
        ({"cell": "x", "seed": [1, 2, 3]}, "f=off", None, "'x' has rows with different factor levels"),
    ],
)
def test_bad_files_are_named(tmp_path, changes, base, baseline, message):
    frame = pd.DataFrame(
        {"cell": ["x", "y", "b"], "f": ["off", "on", None], "seed": 1, "utterance": "u", "pesq_wb": 2.0}
    )
    frame = frame.assign(**{k: v for k, v in changes.items() if k != "drop"})
    frame = frame.drop(columns=[changes["drop"]] if "drop" in changes else [])
    frame.to_csv(tmp_path / "s.csv", index=False)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "s.csv", base, baseline)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_levels_of_a_file_may_be_numbers_and_keep_their_order(tmp_path, suffix):
    frame = pd.DataFrame(
        {
            "cell": ["x", "y", "z", "b"],
            "f": [0, 1, 1, None],
            "core": ["mamba", "mamba", "gru", None],
            "seed": 1,
            "utterance": "u",
            "pesq_wb": 2.0,
        }
    )
    path = tmp_path / f"s.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    scores, info = read(path, "f=0,core=mamba", "b")
    assert info.base == {"f": "0", "core": "mamba"}
    assert list(scores["core"].cat.categories) == ["mamba", "gru"]


def test_means_alone_need_no_column_for_the_utterance_and_none_is_a_level(tmp_path):
    frame = pd.DataFrame(
        {"norm": ["None", "layer"] * 3, "seed": [1, 1, 2, 2, 3, 3], "pesq": [2, 2.1, 2.2] * 2}
    )
    frame.to_csv(tmp_path / "means.csv")
    scores, info = read(tmp_path / "means.csv", "norm=None")
    assert list(scores["norm"].cat.categories) == ["None", "layer"]
    assert any("One value per run" in note for note in info.notes)


def test_levels_are_parsed():
    assert parse_levels("a=off, core=lstm") == {"a": "off", "core": "lstm"}


@pytest.mark.slow
def test_thousand_runs_take_less_than_ten_seconds_of_processor(tmp_path, make_study):
    from ablate.reports import analyze

    make_study(tmp_path, seeds=111, utterances=824)
    start = time.process_time()
    scores, info = scores_from_study(tmp_path)
    analyze(scores, base=info.base, baseline=info.baseline)
    assert len(scores) == 999 * 824
    assert time.process_time() - start < 10


@pytest.mark.slow
def test_an_mlflow_store_alone_gives_the_same_scores(tmp_path, make_study):
    gone = ("crossband=bilstm", 2)
    root = make_study(tmp_path / "root", factors=("crossband",), seeds=3, utterances=4, diverged=[gone])
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert mirror(root, "planted", uri).complete
    scores, info = scores_from_study(root)
    (root / "runs").rename(tmp_path / "away")
    again, other = scores_from_mlflow(uri, "planted")
    pd.testing.assert_frame_equal(again, scores)
    assert [(r.cell, r.seed, r.state, r.summary, list(r.metrics)) for r in other.runs] == [
        (r.cell, r.seed, r.state, r.summary, list(r.metrics)) for r in info.runs
    ]
    with pytest.raises(ValueError, match="no experiment 'other'"):
        scores_from_mlflow(uri, "other")
    with pytest.raises(ValueError, match="no run named 'x'"):
        scores_from_mlflow(uri, "planted", "x")


class Refusing(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(401, "You are not authenticated")

    do_POST = do_GET

    def log_message(self, *_):
        pass


def test_a_server_that_refuses_is_told_as_sync_tells_it(make_study, tmp_path, monkeypatch):
    root = make_study(tmp_path / "root", factors=("crossband",), seeds=1, utterances=2)
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    uri = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    told = [
        CliRunner().invoke(app, words)
        for words in (
            ["report", "planted", "--tracking-uri", uri, "--root", str(root)],
            ["sync", "planted", "--root", str(root)],
        )
    ]
    server.shutdown()
    for result in told:
        assert result.exit_code == 4
        assert f"error: {uri} does not answer: MlflowException: " in result.stderr
        assert "401" in result.stderr
