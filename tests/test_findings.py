"""The pages of docs/findings say what the stored scores say."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from ablate.reports.validation_rank import Agreement

ROOT = Path(__file__).parent.parent


@pytest.fixture
def findings(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import findings

    yield findings
    for name in ("findings", "findings_command", "findings_fresh", "findings_store", "findings_summary"):
        del sys.modules[name]


def test_every_study_file_is_a_study_of_one_recipe(findings):
    cells = {name: findings.request(name).grid.cells() for name in findings.STUDIES}
    assert [len(cells[name]) for name in "abcdefghi"] == [9, 17, 8, 9, 9, 9, 8, 9, 9]
    recipes = {name: {cell.config.recipe for cell in found} for name, found in cells.items()}
    larger = {"steps": None, "width": None, "validation_utterances": None}
    assert len({recipe.model_copy(update=larger) for each in recipes.values() for recipe in each}) == 1
    assert {recipe.steps for name in "abcdefg" for recipe in recipes[name]} == {200}
    assert {recipe.width for name in "abcdefgh" for recipe in recipes[name]} == {0.25}
    a, b, c = ({cell.config.model.model_dump_json() for cell in cells[name]} for name in "abc")
    assert a & b  # trainings that the studies share
    assert a & c


def test_fresh_seeds_repeat_the_same_runs(findings):
    from findings_fresh import REPEATS

    for first, again in REPEATS.items():
        before, after = findings.request(first), findings.request(again)
        assert not {*before.seeds} & {*after.seeds}
        assert before.step_fractions == after.step_fractions
        trained = [
            [(cell.config.model, cell.config.recipe) for cell in study.grid.cells()]
            for study in (before, after)
        ]
        assert trained[0] == trained[1]


def test_study_c_leaves_nothing_untoggled(findings):
    assert findings.untoggled("c") == []
    fields = {text.split("`")[1] for text in findings.untoggled("a")}
    assert fields == {"model.direction", "model.channels", "model.core", "model.norm"}


@pytest.mark.slow
def test_no_number_is_by_hand(findings, tmp_path):
    for name, text in findings.pages(tmp_path).items():
        assert (ROOT / "docs" / "findings" / name).read_text() == text
    for figure in (tmp_path / "figures").iterdir():
        assert (ROOT / "docs" / "findings" / "figures" / figure.name).exists()


def row(name, estimate, half, verdict="", claimed=""):
    data = {"name": name, "estimate": estimate, "low": estimate - half, "high": estimate + half}
    return SimpleNamespace(name=name, data=data, verdict=verdict, claimed=claimed)


def fake(*rows, means=()):
    cells = pd.DataFrame({"cell": list(dict(means)), "mean": list(dict(means).values())})
    gap, rest = row("gap", 0.1, 0.02), row("unexplained", 0.0, 0.01)
    return SimpleNamespace(
        factors=rows,
        gap=gap,
        unexplained=rest,
        rows=[*rows, rest, gap],
        analysis=SimpleNamespace(cells=cells),
    )


@pytest.fixture
def said(findings):
    """The summary of two studies, the first at two lengths; the second is of other learning rates."""
    from findings_summary import Studies, summary

    claim = "+0.05 to +0.10"
    short = fake(row("crossband", 0.07, 0.01, "supported", claim), means={"base": 2.1, "crossband": 2.2})
    long = fake(row("crossband", 0.01, 0.01, "contradicted, negligible", claim))
    tuned = fake(
        row("crossband", 0.03, 0.1, "undecided (about 3 seeds would decide)", claim),
        means={"base": 2.2, "crossband": 2.0},
    )
    studies = Studies(
        reports={("a", 200): short, ("a", 400): long, ("d", 200): tuned},
        own={"a": 200, "d": 200},
        lengths={"a": [], "d": []},
        tuned={"d": {"base": 1e-3, "crossband": 1e-4}},
        agreement={"d": Agreement(9, -0.5, same=False, opposite=False)},
        trainings={"a": {"1", "2"}, "d": {"2", "3"}},
        left=["`model.core` (mamba and lstm)"],
    )
    return "".join(summary(studies))


def test_a_claim_is_judged_at_every_length(said):
    told = "supported in A (200 steps); contradicted in A (400 steps); undecided in D (200 steps)."
    assert f"The claim about crossband (+0.05 to +0.10) is {told}" in said
    assert "| claimed | +0.05 to +0.10 |  |  |" in said
    assert "| A, 400 | +0.010 ±0.010 | +0.000 ±0.010 | +0.100 ±0.020 |" in said


def test_tuning_is_compared_with_the_study_that_was_not_tuned(said):
    assert "(study D), these verdicts change: crossband from supported to undecided." in said
    assert "1 cell at 0.0001 by -0.200, 1 cell at 0.001 by +0.100" in said
    assert "a rank correlation of -0.50), so these verdicts depend on its choice" in said


def test_what_studies_share_is_no_replication(said):
    assert "Studies share runs (A and D 1)" in said
    assert (
        "The unexplained part in study A is +0.000 ±0.010 after 200 steps and +0.000 ±0.010 after 400 steps."
        in said
    )


def test_the_study_of_a_training_command_is_what_is_stored(findings):
    from findings_command import NAME

    asked = findings.request(NAME)
    scores = pd.read_parquet(findings.stored(NAME))
    assert {*scores["seed"]} == {*asked.seeds}
    assert [name for name in scores if name in {f.name for f in asked.factors}] == [
        f.name for f in asked.factors
    ]
    assert scores.groupby(["cell", "seed"]).size().nunique() == 1
