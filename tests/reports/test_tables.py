"""Guardrail metrics and the table of cells, in every form."""

from __future__ import annotations

import csv
import io
import json
import re

import numpy as np
import pandas as pd
import pytest

from ablate.models.errors import InputError
from ablate.reports.build import report_of
from ablate.reports.model import AnalysisReport
from ablate.reports.renderers import write
from ablate.reports.summary import answer
from ablate.reports.tables import CROSS, TICK, cells_table, guardrails_table


@pytest.fixture(scope="module")
def guarded(report: AnalysisReport) -> AnalysisReport:
    """What `crossband` gains in PESQ it loses in CBAK, and LSD falls, which is better."""
    scores, rng = report.scores.copy(), np.random.default_rng(1)
    on = (scores["crossband"] == "bilstm").to_numpy()
    runs = scores.groupby(["cell", "seed"], observed=True).ngroup().to_numpy()
    for metric, base, effect in (("cbak", 2.5, -0.15), ("lsd", 8.0, -0.5)):
        noise = rng.normal(0, 0.02, runs.max() + 1)[runs] + rng.normal(0, 0.02, len(scores))
        scores[metric] = base + effect * on + noise
    return report_of(scores, report.info, guardrails=["cbak", "lsd"])


TABLES = ["md", "latex", "csv", "json"]
"""Forms that show the effects; `test_document` holds the others to the same blocks."""


def text(report: AnalysisReport, format: str) -> str:
    out = io.StringIO()
    write(report, format, out)
    return " ".join(out.getvalue().split())


@pytest.mark.parametrize("format", TABLES)
def test_guards_stand_beside_the_effect_in_every_form(guarded, format):
    written = text(guarded, format)
    if format == "csv":
        rows = list(csv.DictReader(io.StringIO(_raw(guarded, "csv"))))
        (cbak,) = [row for row in rows if (row["metric"], row["name"]) == ("cbak", "crossband")]
        assert float(cbak["estimate"]) == pytest.approx(-0.15, abs=0.03)
        assert (cbak["change"], cbak["p_holm"]) == ("worse", "")
    elif format == "json":
        guardrails = {
            (row["metric"], row["name"]): row["change"] for row in json.loads(written)["guardrails"]
        }
        assert guardrails["cbak", "crossband"] == "worse"
        assert guardrails["lsd", "crossband"] == "better"
    else:
        plain = written.replace("$", "")
        assert re.search(r"CBAK +(\S+ )?LSD \(dB\)|CBAK.{0,40}LSD \(dB\)", plain)
        assert re.search(r"worse -0\.1\d\d \[-0\.\d+, -0\.\d+\]", plain)
        assert re.search(r"better -0\.[45]\d\d \[-0\.\d+, -0\.\d+\]", plain)
        assert "not part of the Holm family" in plain.replace("&#39;", "'")
        assert re.search(r"crossband: PESQ-WB up \(\+0\.\d+\), CBAK down \(-0\.\d+\)\.", plain)


def _raw(report: AnalysisReport, format: str) -> str:
    out = io.StringIO()
    write(report, format, out)
    return out.getvalue()


def test_the_answer_says_what_a_gain_costs(guarded, report):
    assert re.search(r"; but crossband costs 0\.1\d CBAK[;.]", answer(guarded))
    assert "costs" not in answer(report)


def test_guards_leave_the_corrected_family_alone(guarded, report):
    assert guarded.analysis.effects.equals(report.analysis.effects)
    assert guardrails_table(report) is None
    assert [row[0] for row in guardrails_table(guarded).rows] == [
        "bidirectional",
        "decoder4x",
        "crossband",
        "unexplained",
        "gap",
    ]


def test_an_unknown_guard_is_refused_with_the_nearest(report):
    with pytest.raises(InputError, match="no metric 'stoy' in the scores; did you mean 'stoi'"):
        report_of(report.scores, report.info, guardrails=["stoy"])
    with pytest.raises(InputError, match="guardrail metric 'pesq_wb' is given twice"):
        report_of(report.scores, report.info, guardrails=["stoi", "pesq_wb"])


def test_cells_have_ticks_scores_with_their_sd_and_bold_where_the_best_is_apart(guarded):
    found = cells_table(guarded)
    assert found.head[:5] == ["cell", "bidirectional", "decoder4x", "crossband=bilstm", "runs"]
    rows = {row[0]: row for row in found.rows}
    assert rows["base"][1:4] == [CROSS] * 3
    assert rows["bidirectional + crossband"][1:4] == [TICK, CROSS, TICK]
    assert rows["bsrnn"][1:4] == [""] * 3
    cell = guarded.analysis.cells.iloc[0]
    assert rows["base"][5] == f"{cell['mean']:.3f} ± {cell['sd']:.3f}"
    bold = {(found.rows[i][0], found.head[j]) for i, j in found.bold}
    assert (guarded.short(guarded.analysis.best), "PESQ-WB, mean ± SD") in bold
    assert (
        len(bold) == sum(map(bool, [guarded.analysis.best])) + guarded.analysis.guardrail_cells["best"].sum()
    )


def test_nothing_is_bold_where_the_best_two_are_one(report):
    scores = report.scores.copy()
    scores.loc[scores["cell"] == "baseline", "pesq_wb"] -= 0.06
    found = report_of(scores, report.info)
    assert found.analysis.best is None
    assert not cells_table(found).bold
    assert "**" not in _raw(found, "md").split("## Cells")[1].split("##")[0]


def test_latex_shows_ticks_and_a_bold_best(guarded):
    latex = _raw(guarded, "latex")
    assert r"$\times$ & $\checkmark$" in latex
    assert r"\textbf{2.3" in latex
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 5
    assert latex.count(r"\label{") == len(set(re.findall(r"\\label{.*?}", latex))) == 5


@pytest.mark.parametrize("format", ["md", "csv", "json", "checklist"])
def test_every_form_says_what_its_intervals_are(guarded, format):
    written = text(guarded, format).replace("\\", "").replace("&#39;", "'")
    assert "95 %: Welch's t with Satterthwaite's degrees of freedom" in written
    if format == "csv":
        row = pd.read_csv(io.StringIO(_raw(guarded, "csv"))).iloc[0]
        assert (row["seeds"], row["utterances"]) == (3, 24)
    else:
        assert "27 of 27 runs scored" in written
        assert re.search(r"24 (test utterances )?(per|in every) run", written)
        assert "of optimizer steps in 27 training runs" in written


@pytest.mark.parametrize("format", TABLES)
def test_p_higher_is_a_column(report, format):
    expected = {
        "csv": "p_higher",
        "json": "p_higher",
        "latex": r"P(improvement)",
        "html": "P(improvement)",
    }
    expected["md"] = "P(improvement)"
    assert expected.get(format, "P(improvement)") in text(report, format)
    row = next(row for row in report.factors if row.name == "crossband")
    assert row.p_higher == "36 of 36 pairs"
    assert row.p_higher in text(report, format) or format in ("csv", "json")
