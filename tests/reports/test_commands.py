from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from ablate.models.errors import InputError
from ablate.reports.cli import app


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_report_command_prints_a_study_and_writes_files(planted_root, tmp_path):
    done = run("report", "--root", planted_root, "--format", "json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["study"]["name"] == "planted"
    target = tmp_path / "deep" / "table.md"
    done = run("report", "planted", "--root", planted_root, "--format", "md", "-o", target)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "Shapley value" in target.read_text()


def test_margin_and_claims_may_be_given_with_the_report(planted_root):
    options = ("report", "planted", "--root", planted_root, "--format", "json")
    done = run(*options, "--margin", "0.3", "--claim", "crossband=0.15..0.25")
    found = json.loads(done.stdout)
    assert found["margin"] == 0.3
    assert "the study declared 0.05" in found["measured_at"]["margin"]
    assert found["claims"]["crossband"]["low"] == 0.15
    assert found["claims"]["crossband"]["source"] == "given with the report"
    assert found["claims"]["bidirectional"]["low"] == 0.2
    on_stoi = json.loads(run(*options, "--metric", "stoi").stdout)
    assert on_stoi["margin"] is None
    assert on_stoi["claims"] == {}
    assert {effect["verdict"] for effect in on_stoi["effects"]} <= {"", "no margin"}
    refused = run(*options, "--claim", "crossband=0.3..0.2").exception
    assert isinstance(refused, InputError)


def test_report_command_reads_scores(report, tmp_path):
    path = tmp_path / "s.csv"
    report.scores.to_csv(path, index=False)
    base = "bidirectional=off,decoder4x=off,crossband=pointwise"
    command = ("report", "--scores", path, "--base", base, "--baseline", "baseline", "--format", "csv")
    done = run(*command)
    assert done.exit_code == 0
    gap = done.stdout.splitlines()[1].split(",")
    assert gap[:3] == ["pesq_wb", "gap", "gap"]
    assert float(gap[3]) == pytest.approx(float(report.gap.data["estimate"]))


def test_report_command_takes_several_logs(tmp_path):
    line = "INFO:root:TEST - Generator loss: 0.05, Discriminator loss: 0.01, PESQ: {}\n"
    for name, values in (("a", ("2.0000", "2.5000")), ("b", ("1.9000", "2.1000"))):
        (tmp_path / f"{name}.log").write_text("".join(map(line.format, values)))
    done = run("report", "--logs", tmp_path / "a.log", tmp_path / "b.log", "--format", "json")
    assert done.exit_code == 0
    data = json.loads(done.stdout)
    assert data["logs"] == {"a": {"0": 2.0, "1": 2.5}, "b": {"0": 1.9, "1": 2.1}}
    assert "the gap a - b is +0.10 to +0.40 PESQ" in " ".join(data["reasons"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--base", "a=off"), "are only for --scores"),
        (("--scores", "x.csv"), "does not say which columns are factors"),
        (("one", "two"), "one study at a time"),
        (("--format", "word"), "unknown format 'word'"),
        (("--logs", "a.log", "--guardrail", "cbak", "--margin", "1"), "leave out --guardrail, --margin"),
        (("--tracking-uri", "sqlite:///x.db"), "needs the name of a study"),
    ],
)
def test_wrong_use_is_explained(tmp_path, arguments, message):
    done = run("report", "--root", tmp_path, *arguments)
    assert isinstance(done.exception, ValueError)
    assert message in str(done.exception)


def test_a_study_without_scores_is_incomplete(tmp_path, make_study):
    cells = ("crossband=pointwise", "crossband=bilstm", "baseline")
    root = make_study(tmp_path, factors=("crossband",), seeds=1, missing=[(c, 1) for c in cells])
    done = run("report", "--root", root)
    assert done.exit_code == 4
    assert "3 pending" in done.stderr
