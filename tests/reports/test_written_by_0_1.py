"""A study that version 0.1 wrote (`tests/written_by_0_1`): it opens, reports what it did, and gains seeds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ablate.ablations import runspec
from ablate.ablations.grid import Grid, parse_factors
from ablate.reports import cli
from ablate.studies.plan.difference import compare, merge
from ablate.studies.plan.resolve import in_steps
from ablate.studies.plan.store import is_done, load

OF_0_1 = Path(__file__).parents[1] / "written_by_0_1"
NAME = "written-by-0.1"
SETTINGS = {
    "recipe.steps": 4,
    "recipe.selection": "best",
    "recipe.validation_utterances": 2,
    "recipe.batch_size": 2,
    "recipe.crop_seconds": 0.5,
    "model.channels": 16,
    "model.layers": 1,
}


@pytest.fixture
def root(tmp_path) -> Path:
    return Path(shutil.copytree(OF_0_1 / "root", tmp_path / "root"))


def test_it_reports_what_it_reported(root, monkeypatch, capsys):
    monkeypatch.chdir(root.parent)
    monkeypatch.setattr("sys.argv", ["ablate", "report", "--root", "root", "--format", "json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    found, then = json.loads(capsys.readouterr().out), json.loads((OF_0_1 / "report.json").read_text())
    for effect in then["effects"]:
        if effect["claim_low"] is not None:  # it is of the demo corpus, where no claim is judged any more
            effect |= {"verdict": "no verdict", "seeds_needed": None}
    for row in then["convergence"]:  # its threshold was taken from the noisy input, which no curve came near
        for field in ("threshold", "reached", "steps_to_threshold", "seconds_to_threshold"):
            del row[field]
    found["notes"] = [note for note in found["notes"] if note in then["notes"]]
    assert_holds(found, then, "report")


def assert_holds(found, then, where: str) -> None:
    """What was said then is said now; more may be."""
    if isinstance(then, dict):
        assert not then.keys() - found.keys(), where
        for key in then:
            assert_holds(found[key], then[key], f"{where}.{key}")
    elif isinstance(then, list):
        assert len(found) == len(then), where
        for index, (a, b) in enumerate(zip(found, then, strict=True)):
            assert_holds(a, b, f"{where}[{index}]")
    elif isinstance(then, float):
        assert found == pytest.approx(then, rel=1e-6, abs=1e-9), where
    else:
        assert found == then, where


def test_it_gains_seeds_without_training_again(root):
    old = load(root, NAME)
    factors = parse_factors("bidirectional,pcs")
    cells = Grid.parse("bidirectional,pcs", changes=SETTINGS).cells()
    asked = old.model_copy(
        update={
            "factors": factors,
            "cells": tuple(
                known.model_copy(update={"config": in_steps(cell.config, old.corpus.train)})
                for known, cell in zip(old.cells, cells, strict=True)
            ),
            "seeds": (1, 2, 3),
        }
    )
    assert compare(old, asked) == []
    more = merge(old, asked, root)
    assert more.seeds == (1, 2, 3)
    for before, after in zip(old.cells, more.cells, strict=True):
        for seed in old.seeds:
            assert after.signatures[seed] == before.signatures[seed]
            assert after.evaluations[seed] == before.evaluations[seed]
            assert is_done(more, root, after, seed)
        assert not is_done(more, root, after, 3)


def test_its_runs_are_told_to_be_of_an_older_version(root, monkeypatch):
    plan = load(root, NAME)
    monkeypatch.setattr(runspec, "RESULTS_VERSION", runspec.RESULTS_VERSION + 1)
    for cell in plan.cells:
        for seed in plan.seeds:
            spec = plan.spec(cell, seed)
            assert spec.training_signature != cell.signatures[seed]
            assert spec.results_version(cell.signatures[seed]) == 1
