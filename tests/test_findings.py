"""The pages of docs/findings say what the stored scores say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def findings(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import findings

    yield findings
    for name in ("findings", "findings_store", "findings_summary"):
        del sys.modules[name]


def test_every_study_file_is_a_study_of_one_recipe(findings):
    cells = {name: findings.request(name).grid.cells() for name in findings.STUDIES}
    assert {name: len(found) for name, found in cells.items()} == {"a": 9, "b": 17, "c": 8, "d": 9, "e": 9}
    recipes = {cell.config.recipe for found in cells.values() for cell in found}
    assert len({recipe.model_copy(update={"validation_utterances": None}) for recipe in recipes}) == 1
    a, b, c = ({cell.config.model.model_dump_json() for cell in cells[name]} for name in "abc")
    assert a & b  # trainings that the studies share
    assert a & c


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
