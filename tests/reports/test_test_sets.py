"""Several test sets in one study: an effect on each, and whether they agree."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ablate.reports import caveats
from ablate.reports.build import report_of, report_of_study
from ablate.reports.checklist import checklist_blocks
from ablate.reports.model import AnalysisReport
from ablate.reports.renderers import write
from ablate.reports.sources import scores_from_study
from ablate.reports.sources.mlflow import FIRST_ALONE
from ablate.reports.summary import answer
from ablate.reports.test_sets import lines_of_test_sets
from ablate.studies.plan import ExtraTestSet, Plan, load, save


def further(root) -> Plan:
    """Have the planted study planned on a extra test set."""
    note = ExtraTestSet(name="far", path="/data/far", digest="f" * 64, files=12)
    plan = load(root, "planted").model_copy(update={"extra_test_sets": (note,)})
    # the cells are renamed by the fixture: their names and runs stay
    signed = plan.signed()
    save(signed, root)
    return signed


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_study):
    """`crossband` turns round on the further corpus; all else is as on the first."""
    root = make_study(tmp_path_factory.mktemp("corpora"), is_demo=False)
    plan, rng = further(root), np.random.default_rng(3)
    for cell in plan.cells:
        for seed in plan.seeds:
            folder = root / "runs" / cell.signatures[seed] / "scores"
            there = pd.read_parquet(folder / f"{cell.evaluations[seed]}.parquet").iloc[:12].copy()
            there["utterance"] = [f"far{index}" for index in range(len(there))]
            level = there["pesq_wb"].mean() - 0.4 * (cell.levels.get("crossband") == "bilstm")
            there["pesq_wb"] = level + np.linspace(-0.2, 0.2, len(there)) + rng.normal(0, 0.02, len(there))
            there.to_parquet(folder / f"{cell.further[seed][0]}.parquet")
    return root


@pytest.fixture(scope="module")
def report(root) -> AnalysisReport:
    return report_of_study(root)


@pytest.mark.parametrize("format", ["md", "csv", "json"])
def test_every_form_shows_the_effect_on_each_corpus_and_whether_they_agree(report, format):
    out = io.StringIO()
    write(report, format, out)
    written = " ".join(out.getvalue().split())
    if format == "csv":
        rows = [row for row in csv.DictReader(io.StringIO(out.getvalue())) if row["corpus"] == "far"]
        crossband = next(row for row in rows if (row["kind"], row["name"]) == ("shapley", "crossband"))
        assert crossband["words"] == "turns round"
        assert (crossband["utterances"], crossband["p_holm"], crossband["verdict"]) == ("12", "", "")
    elif format == "json":
        document = json.loads(out.getvalue())
        assert document["first_test"] == report.test_name
        (far,) = document["extra_test_sets"]
        words = {(row["kind"], row["name"]): row["words"] for row in far["effects"]}
        assert words["shapley", "crossband"] == "turns round"
        assert far["cells"][0]["runs"] == 3
    else:
        assert "turns round" in written
        assert "By test set" in written
        assert f"family and every other table use {report.test_name}, the first" in written
        assert f"{report.test_name} (the first; verdicts are based on it)" in written
    if format != "csv":
        assert (
            f"On far, compared with {report.test_name}: turns round (both intervals exclude zero): crossband"
            in written
        )


def test_the_first_corpus_alone_is_judged_and_corrected(report, root):
    scores, info = scores_from_study(root)
    assert set(info.further) == {"far"}
    assert len(scores) == 27 * 24
    family = report.analysis.kind("main")
    assert len(family) == 3
    assert family["p_holm"].notna().all()
    assert "on far, crossband turns round" in answer(report)
    (far,) = report.test_sets
    assert "p_holm" not in far.effects
    assert "verdict" not in far.effects


def test_where_trainings_differ_by_more_it_is_said_what_it_would_take(report):
    assert not any("SD" in line for line in lines_of_test_sets("near", report.test_sets))
    far = report.info.further["far"].copy()
    run = pd.factorize(far["cell"].astype(str) + far["seed"].astype(str))[0]
    far["pesq_wb"] += np.random.default_rng(0).normal(0, 0.3, run.max() + 1)[run]
    noisy = replace(report, info=replace(report.info, further={"far": far}))
    (line,) = [line for line in lines_of_test_sets("near", noisy.test_sets) if "SD" in line]
    assert line.startswith("On far, runs differ between seeds by SD 0.")
    assert "would need" in line


def test_what_is_not_used_of_a_further_corpus_is_named(report):
    far = report.info.further["far"]
    gone = (far["cell"] == "baseline") & (far["seed"] > 1)
    far = far[~gone].copy()
    far.loc[(far["utterance"] == "far0") & (far["cell"] == "baseline"), "pesq_wb"] = np.nan
    info = replace(report.info, further={"far": far})
    notes = caveats.notes(replace(report, info=info))
    assert "On far: 2 of 27 runs are not scored on it: baseline seed 2, baseline seed 3." in notes
    assert any(note.startswith("On far: 1 of 12 utterances (far0) have no pesq_wb") for note in notes)
    assert not any(note.startswith("On far: ") for note in caveats.notes(report))


def test_guards_are_said_to_be_of_the_first_corpus(report):
    scores = report.scores.assign(cbak=report.scores["pesq_wb"] / 2)
    line = f"Guardrail metrics are evaluated only on the first test set, {report.test_name}."
    assert line in caveats.notes(report_of(scores, report.info, guardrails=["cbak"]))
    assert line not in caveats.notes(report)


def test_a_corpus_on_which_no_effect_has_its_cells_says_so(report):
    far = report.info.further["far"]
    info = replace(report.info, further={"far": far[far["cell"] == "baseline"]})
    alone = replace(report, info=info)
    assert "No results on test set far: no effect has all its cells there." in caveats.notes(alone)
    line = next(line for line in list(checklist_blocks(alone))[2].lines if line.startswith("**8a**"))
    assert "there are no effects on the extra test sets" in line


def test_a_corpus_that_is_not_scored_is_named(tmp_path, make_study):
    root = make_study(tmp_path, factors=("crossband",), utterances=6)
    further(root)
    out = io.StringIO()
    write(report_of_study(root), "md", out)
    assert "No results on test set far: no run is scored on it here." in out.getvalue()
    assert "By test set" not in out.getvalue()
    report = report_of_study(root)
    mirrored = replace(report, info=replace(report.info, no_further=FIRST_ALONE))
    assert f"No results on test set far: {FIRST_ALONE}." in caveats.notes(mirrored)
