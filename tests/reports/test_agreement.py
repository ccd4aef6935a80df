from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from ablate.reports import conditions
from ablate.reports.agreement import agreement, agreement_lines
from ablate.reports.build import report_of_study
from ablate.reports.forms import write
from ablate.studies.scores import RunInfo


def study(validation, test, metric="pesq_wb"):
    """Scores of two utterances of as many trainings, and what is known of these."""
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


def test_it_is_pearsons_correlation_of_the_ranks():
    rng = np.random.default_rng(5)
    validation, test = rng.normal(size=(2, 12))
    found = agreement(*study(validation, test), "pesq_wb")
    assert found.trainings == 12
    assert found.correlation == pytest.approx(np.corrcoef(rankdata(validation), rankdata(test))[0, 1])


def test_an_order_that_turns_round_is_said_and_what_it_means_for_what_was_chosen():
    rising = np.arange(8.0)
    same, turned = (agreement(*study(rising, test), "pesq_wb") for test in (rising, -rising))
    assert (same.correlation, turned.correlation) == (pytest.approx(1), pytest.approx(-1))
    assert (same.shown, turned.shown) == (True, False)
    assert agreement_lines(same, "pesq_wb", chosen=True) == [
        "Over 8 trainings, validation PESQ-WB and PESQ-WB of the test have a rank correlation of +1.00."
    ]
    (line,) = agreement_lines(turned, "pesq_wb", chosen=True)
    assert "-1.00. That validation orders them as the test does is not shown: what it chose" in line
    (line,) = agreement_lines(turned, "pesq_wb", chosen=False)
    assert line.endswith("is not shown.")


def test_lower_is_better_for_some_measures():
    rising = np.arange(8.0)
    assert agreement(*study(rising, -rising, "lsd"), "lsd").correlation == pytest.approx(1)


def test_a_training_that_two_cells_share_counts_once_and_few_say_nothing():
    scores, runs = study(np.arange(7.0), np.arange(7.0))
    shared = [RunInfo(**{**vars(run), "training": "0"}) if run.cell == "c6" else run for run in runs]
    assert agreement(scores, shared, "pesq_wb").trainings == 6
    assert agreement(scores, shared[:-2], "pesq_wb") is None
    assert agreement(*study(np.ones(8), np.arange(8.0)), "pesq_wb") is None
    assert agreement_lines(None, "pesq_wb", chosen=True) == []


def test_every_report_of_a_study_says_it(tmp_path, make_study):
    found = report_of_study(make_study(tmp_path, factors=("bidirectional", "decoder4x")))
    (line,) = [line for line in conditions.notes(found) if "rank correlation" in line]
    assert f"Over {found.agreement.trainings} trainings" in line
    out = io.StringIO()
    write(found, "json", out)
    assert json.loads(out.getvalue())["agreement"]["trainings"] == found.agreement.trainings
