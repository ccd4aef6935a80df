from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import pandas as pd
import pytest

from ablate.ablations.diff import differences
from ablate.reports import caveats, run_warnings
from ablate.reports.blocks import NamedValues
from ablate.reports.build import NoScoresError, report_of, report_of_file, report_of_study, write_folder
from ablate.reports.document import document
from ablate.reports.renderers import FORMS, write
from ablate.studies.plan import Look
from ablate.studies.study import Tuning

QUICK = [format for format in FORMS if format != "html"]


def text(report, format):
    out = io.StringIO()
    write(report, format, out)
    return out.getvalue()


def test_the_table_says_what_it_must(report):
    table = text(report, "table")
    for part in (
        "Gap bsrnn - mbsnet: +0.4",
        "95 % interval",
        "Shapley value",
        "+0.20 to +0.30",
        "contradicted",
        "unexplained",
        "add-one",
        "leave-one-out",
        "+1,813,248",
        "2,139,920 parameters",
        "60 steps",
        "27 of 27 runs scored",
        "norm layer instead of group",
        "cover other training runs",
        "Audit findings were waived: AB012",
    ):
        assert part in re.sub(r"\s+", " ", table), part


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_of_80_columns_has_whole_numbers(report, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    write(report, "table", out)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    left = "columns left out because the terminal is too narrow: centred by seed, parameters, P(improvement)"
    assert left in " ".join(shown.split())
    row = next(line for line in shown.splitlines() if line.strip().startswith("crossband"))
    assert "contradicted" in row
    assert text(report, "table").count("+1,813,248") == 1


def test_claims_stand_beside_their_factor(report):
    rows = {row.name: row for row in report.factors}
    assert list(rows) == ["bidirectional", "decoder4x", "crossband"]
    assert rows["crossband"].claimed == "+0.05 to +0.10"
    assert float(rows["crossband"].estimate) == pytest.approx(0.2, abs=0.05)
    assert "contradicted" in rows["crossband"].verdict
    assert rows["bidirectional"].parameters == "+360,448"


def test_shapley_values_and_unexplained_are_the_gap(report):
    parts = [float(row.data["estimate"]) for row in [*report.factors, report.unexplained]]
    assert sum(parts) == pytest.approx(float(report.gap.data["estimate"]), abs=1e-9)


def test_json_has_a_versioned_schema_and_effects(report):
    data = json.loads(text(report, "json"))
    assert (data["schema"], data["version"]) == ("ablate.report", 1)
    kinds = {effect["kind"] for effect in data["effects"]}
    assert {
        "gap",
        "main",
        "shapley",
        "interaction",
        "leave-one-out",
        "add-one",
        "unexplained",
        "simple",
    } <= kinds
    assert data["study"]["demo_corpus"] is False
    assert len(data["study"]["runs"]) == 27
    assert data["study"]["parameters"]["baseline"] == 2963024


def test_csv_has_every_effect(report):
    rows = list(csv.DictReader(io.StringIO(text(report, "csv"))))
    assert len(rows) == len(report.analysis.effects)
    gap = next(row for row in rows if row["kind"] == "gap")
    assert float(gap["estimate"]) == pytest.approx(float(report.gap.data["estimate"]), abs=1e-12)


def test_latex_is_booktabs_and_escaped(report):
    latex = text(report, "latex")
    for part in (r"\toprule", r"\midrule", r"\bottomrule", r"95 \% interval", "$+0.05$ to $+0.10$"):
        assert part in latex
    assert not re.search(r"(?<!\\)[%_#&](?!.*\\\\)", re.sub(r"^%.*|.*&.*", "", latex, flags=re.MULTILINE))
    opened = re.findall(r"\\begin\{(\w+)\}", latex)
    assert sorted(opened) == sorted(re.findall(r"\\end\{(\w+)\}", latex))


def test_markdown_tables_are_rectangular(report):
    widths = []
    for line in text(report, "md").splitlines():
        if line.startswith("|"):
            widths.append(len(re.split(r"(?<!\\)\|", line)))
        elif widths:
            assert len(set(widths)) == 1
            widths = []


def test_file_and_directories_give_equal_answers(report, tmp_path):
    path = tmp_path / "scores.csv"
    report.scores.to_csv(path, index=False)
    other = report_of_file(path, report.info.base, "baseline")
    ours, theirs = report.analysis.effects, other.analysis.effects
    assert list(ours["name"]) == list(theirs["name"])
    for column in ("estimate", "se", "df", "low", "high"):
        assert theirs[column].to_numpy() == pytest.approx(ours[column].to_numpy(), nan_ok=True)
    for format in QUICK:
        assert text(other, format)


def test_one_seed_gives_no_interval_and_says_why(tmp_path, make_study):
    root = make_study(tmp_path, factors=("crossband", "bidirectional"), seeds=1, utterances=6)
    report = report_of_study(root)
    table = text(report, "table")
    assert "Only one seed per cell: run-to-run variance is unknown" in table
    assert all(row.interval == "" for row in [*report.factors, report.gap])
    assert "[" not in "".join(row.verdict for row in report.factors)
    for format in QUICK:
        assert not re.search(r"\bnan\b", text(report, format), re.IGNORECASE)


def test_holes_are_named(tmp_path, make_study):
    gone = "bidirectional=on,crossband=bilstm"
    root = make_study(
        tmp_path,
        factors=("bidirectional", "crossband"),
        missing=[(gone, 1), (gone, 2), (gone, 3)],
        diverged=[("bidirectional=off,crossband=bilstm", 2)],
        utterances=6,
    )
    report = report_of_study(root)
    table = re.sub(r"\s+", " ", text(report, "table"))
    assert f"{gone}, seed 1: pending" in table
    assert "bidirectional=off,crossband=bilstm, seed 2: diverged at step 41 (nan)" in table
    assert "1 of 3 diverged, rate 0.33" in table
    assert "11 of 15 runs scored" in table
    assert report.unexplained is None
    assert "ot estimable" in table
    for format in FORMS:
        assert text(report, format)


def test_no_scores_is_an_error_that_says_where_the_runs_stand(tmp_path, make_study):
    cells = ("crossband=pointwise", "crossband=bilstm", "baseline")
    root = make_study(tmp_path, factors=("crossband",), seeds=1, missing=[(c, 1) for c in cells])
    with pytest.raises(NoScoresError, match="3 pending"):
        report_of_study(root)


def test_another_metric_carries_no_claims(planted_root):
    report = report_of_study(planted_root, metric="stoi")
    assert report.metric == "STOI"
    assert {row.claimed for row in report.factors} == {""}
    with pytest.raises(ValueError, match="no metric 'loudness'"):
        report_of_study(planted_root, metric="loudness")


def test_hostile_names_do_not_break_out(tmp_path, planted_root):
    report = report_of_study(planted_root)
    scores = report.scores.copy()
    nasty = "<script>alert(1)</script>|&_%"
    scores["noise"] = nasty
    scores["cell"] = scores["cell"].astype("object").replace("baseline", nasty)
    scores.to_parquet(tmp_path / "scores.parquet")
    other = report_of_file(tmp_path / "scores.parquet", report.info.base, nasty)
    assert "<script" not in text(other, "html")
    assert "<script" not in text(other, "md")


@pytest.mark.slow
def test_a_folder_holds_every_form(report, tmp_path):
    page = write_folder(report, tmp_path / "report")
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"table.md", "table.tex", "effects.csv", "report.json", "report.html", "figures"}
    assert page.read_text().startswith("<!DOCTYPE html>")
    figures = {path.name for path in (tmp_path / "report" / "figures").iterdir()}
    assert {"waterfall.png", "waterfall.pdf", "forest.png", "curves.pdf", "pareto.png"} <= figures


def test_unknown_format(report):
    with pytest.raises(ValueError, match=r"unknown format 'word'. Known: table, md"):
        write(report, "word", io.StringIO())


def test_levels_and_cells_beyond_a_factorial_of_two(tmp_path):
    cells = {("lstm", "off"): 2.0, ("gru", "off"): 2.1, ("mamba", "off"): 2.3}
    cells |= {("lstm", "on"): 2.1, ("gru", "on"): 2.2, ("mamba", "on"): 2.4}
    frame = pd.DataFrame(
        [
            (f"{core}-{bi}", core, bi, seed, f"u{u}", mean + 0.01 * seed * (u + 1))
            for (core, bi), mean in cells.items()
            for seed in (1, 2, 3)
            for u in range(3)
        ],
        columns=["cell", "core", "bi", "seed", "utterance", "pesq_wb"],
    )
    frame.to_csv(tmp_path / "s.csv", index=False)
    full = report_of_file(tmp_path / "s.csv", "core=lstm,bi=off")
    assert [row.name for row in full.factors] == ["core=mamba", "bi", "core=gru (main effect)"]
    frame[frame["cell"].isin(["lstm-off", "mamba-off", "lstm-on"])].to_csv(tmp_path / "s.csv", index=False)
    holed = report_of_file(tmp_path / "s.csv", "core=lstm,bi=off")
    assert holed.credit_kind == "add-one effect"
    assert {row.name: row.estimate for row in holed.factors} == {"core": "+0.300", "bi": "+0.100"}
    assert "no gap can be explained" in text(holed, "table")


def test_a_fraction_has_its_corrected_p_values_too(make, tmp_path):
    frame = make(factors=("a", "b", "c"))
    frame[frame["cell"].isin(["base", "a+b", "a+c", "b+c"])].to_csv(tmp_path / "s.csv", index=False)
    fraction = report_of_file(tmp_path / "s.csv", "a=off,b=off,c=off")
    assert fraction.credit_kind == "main effect"
    assert "p (Holm)" in text(fraction, "md")


def planned(report, **fields):
    """A report whose plan says something else."""
    plan = report.info.plan.model_copy(update=fields)
    return replace(report, info=replace(report.info, plan=plan))


def test_tuning_and_looks_are_told(report):
    assert "none was tuned" in " ".join(caveats.notes(report))
    first, *others = report.info.plan.cells
    tuned = first.model_copy(update={"tuned": {"recipe.learning_rate": 0.00123}})
    changed = planned(
        report,
        tune=Tuning(space={"recipe.learning_rate": (1e-4, 1e-2)}, trials=8),
        cells=(tuned, *others),
        looks=(Look(seeds=3, trainings=27, half_width=0.041, wanted=0.03, time=0.0),),
    )
    told = " ".join(caveats.notes(changed))
    assert dict(caveats.measured_at(changed))["compute"].endswith("tuning (8 trials per cell)")
    assert "tuning" not in dict(caveats.measured_at(report))["compute"]
    assert "with 8 trials on validation" in told
    assert f"{first.name} recipe.learning_rate 0.00123." in told
    assert "27 runs: 0.041" in told
    allocated = Look(seeds=7, trainings=31, target="gap", half_width=0.03, wanted=0.03, time=0.0)
    assert "31 runs: 0.030" in " ".join(caveats.notes(planned(report, looks=(allocated,))))


def test_cells_that_differ_in_seeds_are_told(report):
    assert "3 seeds" in report.headline
    scores = report.scores[(report.scores["cell"] != "baseline") | (report.scores["seed"] < 3)]
    uneven = report_of(scores, report.info)
    assert "2 to 3 seeds per cell" in uneven.headline
    assert "2 to 3 seeds per cell" in dict(caveats.measured_at(uneven))["seeds"]
    assert set(pd.read_csv(io.StringIO(text(uneven, "csv")))["seeds"]) == {"2 to 3"}


def test_seeds_of_which_no_cell_has_two_give_no_interval(report):
    seed = report.scores["cell"].map(lambda cell: 2 if cell == "baseline" else 1)
    alone = report_of(report.scores[report.scores["seed"] == seed.astype(int)], report.info)
    assert alone.analysis.seeds == (1, 2)
    assert caveats.intervals(alone) == "none"
    assert "1 seed, " in alone.headline
    assert any(line.startswith("Only one seed per cell") for line in caveats.warnings(alone))


def test_a_study_that_started_from_weights_says_which(report):
    blocks = document(planned(report, start_from="best"), "html").blocks
    facts = [pair for _, block in blocks if isinstance(block, NamedValues) for pair in block.pairs]
    assert ("started from", "best") in facts


def test_untoggled_differences_are_those_of_diff(report):
    *others, baseline = report.info.plan.cells
    unread = baseline.config.with_changes({"model.heads": 8})
    found = planned(report, cells=(*others, baseline.model_copy(update={"config": unread})))
    on = next(cell for cell in others if cell.name.endswith("bilstm") and cell.name.count("=on") == 2)
    groups = {d.path: d.group for d in differences(on.config, unread, found.info.plan.factors)}
    assert groups["model.heads"] == "consequence"
    assert {d.path for d in caveats.untoggled(found)} == {p for p, g in groups.items() if g != "consequence"}


@pytest.mark.parametrize("format", ["md", "json", "checklist"])
def test_broken_outputs_are_counted(report, format):
    scores = report.scores.copy()
    rows = scores.index[scores["cell"] == "baseline"][:3]
    scores["broken"] = None
    scores.loc[rows, "broken"] = ["pesq_wb, stoi", "pesq_wb", "stoi"]
    broken = replace(report, scores=scores)
    assert run_warnings.broken_outputs(broken) == {"baseline": 2}
    assert run_warnings.broken_outputs(report) == {}
    if format != "csv":
        assert "count as PESQ-WB 1: 2 of 648 (baseline 2)" in " ".join(text(broken, format).split())


def with_recipe(report, **changes):
    cells = tuple(
        cell.model_copy(
            update={"config": cell.config.with_changes({f"recipe.{k}": v for k, v in changes.items()})}
        )
        for cell in report.info.plan.cells
    )
    plan = report.info.plan.model_copy(update={"cells": cells})
    return replace(report, info=replace(report.info, plan=plan))


def test_what_varied_with_the_seed_is_said(report):
    said = dict(caveats.measured_at(report))["varied with the seed"]
    assert said == (
        "initialisation, order of the files, crops; not the validation split (recipe.split=seed varies it), "
        "the test files"
    )
    drawn, fixed = caveats.varied(with_recipe(report, split="seed", remix=0.5))
    assert drawn == ["initialisation", "order of the files", "crops", "augmentation", "the validation split"]
    assert fixed == ["the test files"]
    started = report.info.plan.model_copy(update={"start_from": "some.pt"})
    assert "initialisation" in caveats.varied(replace(report, info=replace(report.info, plan=started)))[1]
