from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from ablate.reports import caveats
from ablate.reports.build import report_of_study
from ablate.reports.renderers import write
from ablate.reports.validation_rank import Agreement, agreement, agreement_lines
from ablate.studies.scores import RunInfo


def study(validation, test, metric="pesq_wb"):
    """Scores of two utterances of a training each of as many cells, and what is known of these."""
    rows = [
        {"cell": f"c{i}", "seed": 1, "utterance": name, metric: value + shift}
        for i, value in enumerate(test)
        for name, shift in (("a", -0.1), ("b", 0.1))
    ]
    runs = [
        RunInfo(f"c{i}", 1, training=str(i), summary={"val_pesq_wb": value}, scored=True)
        for i, value in enumerate(validation)
    ]
    return pd.DataFrame(rows), runs


def test_it_is_pearsons_correlation_of_the_ranks_of_cells():
    rng = np.random.default_rng(5)
    validation, test = rng.normal(size=(2, 12))
    found = agreement(*study(validation, test), "pesq_wb")
    assert found.cells == 12
    assert found.correlation == pytest.approx(np.corrcoef(rankdata(validation), rankdata(test))[0, 1])


def test_seeds_of_a_cell_are_no_further_evidence():
    rising = np.arange(8.0)
    luck = np.random.default_rng(1).normal(0, 5, 8)
    scores, runs = study(rising, rising)
    more, again = study(2 * luck, rising + luck)
    again = [replace(run, seed=2, training=f"{run.training} again") for run in again]
    found = agreement(pd.concat([scores, more.assign(seed=2)]), [*runs, *again], "pesq_wb")
    assert found.cells == 8
    means = rankdata(rising / 2 + luck), rankdata(rising + luck / 2)
    assert found.correlation == pytest.approx(np.corrcoef(*means)[0, 1])


def test_an_order_that_turns_round_is_said_and_what_it_means_for_what_was_chosen():
    rising = np.arange(8.0)
    mixed = np.array([3.0, 6, 1, 4, 7, 0, 5, 2])
    same, turned, none = (agreement(*study(rising, test), "pesq_wb") for test in (rising, -rising, mixed))
    assert (same.correlation, same.same, same.opposite) == (pytest.approx(1), True, False)
    assert (turned.correlation, turned.same, turned.opposite) == (pytest.approx(-1), False, True)
    assert (none.same, none.opposite) == (False, False)
    assert agreement_lines(same, "pesq_wb", chosen=True) == [
        "Over 8 cells, validation PESQ-WB and test PESQ-WB have a rank correlation of +1.00."
    ]
    (line,) = agreement_lines(turned, "pesq_wb", chosen=True)
    assert "-1.00: validation ranks them in the opposite order, so what it selected" in line
    (line,) = agreement_lines(none, "pesq_wb", chosen=False)
    assert line.endswith("which does not show that validation ranks them as the test set does.")


def test_lower_is_better_for_some_measures():
    rising = np.arange(8.0)
    assert agreement(*study(rising, -rising, "lsd"), "lsd").correlation == pytest.approx(1)


def test_a_training_that_two_cells_share_counts_once_and_few_say_nothing():
    scores, runs = study(np.arange(7.0), np.arange(7.0))
    shared = [replace(run, training="0") if run.cell == "c6" else run for run in runs]
    assert agreement(scores, shared, "pesq_wb").cells == 6
    assert agreement(scores, shared[:-2], "pesq_wb") is None
    assert agreement(*study(np.ones(8), np.arange(8.0)), "pesq_wb") is None
    assert agreement(scores, [], "pesq_wb") is None
    assert agreement_lines(None, "pesq_wb", chosen=True) == []


@pytest.fixture(scope="module")
def found(tmp_path_factory, make_study):
    factors = ("bidirectional", "decoder4x", "crossband")
    return report_of_study(make_study(tmp_path_factory.mktemp("agreement"), factors=factors))


def test_the_cells_of_a_study_are_compared(found):
    assert found.agreement.cells == len(found.info.plan.cells)


@pytest.mark.parametrize(("selection", "warns"), [("best", True), ("last", False)])
def test_the_notes_warn_where_validation_chose(found, monkeypatch, selection, warns):
    monkeypatch.setattr("ablate.reports.model.agreement", lambda *_: Agreement(9, -0.9, False, True))
    cells = [
        cell.model_copy(update={"config": cell.config.with_changes({"recipe.selection": selection})})
        for cell in found.info.plan.cells
    ]
    plan = found.info.plan.model_copy(update={"cells": tuple(cells)})
    changed = replace(found, info=replace(found.info, plan=plan))
    (line,) = [line for line in caveats.notes(changed) if "rank correlation" in line]
    assert line.startswith("Over 9 cells")
    assert ("what it selected" in line) == warns
    out = io.StringIO()
    write(changed, "json", out)
    assert json.loads(out.getvalue())["agreement"]["cells"] == 9
