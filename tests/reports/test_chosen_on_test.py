from __future__ import annotations

import pytest
from scipy import stats

from ablate.reports.chosen_on_test import price, price_lines
from ablate.studies.scores import RunInfo


def run(seed: int, tested: list[float], validated: list[float] | None = None, name="val/pesq_wb") -> RunInfo:
    lines = [{"step": i, "test/pesq_wb": value} for i, value in enumerate(tested)]
    for line, value in zip(lines, validated or [], strict=False):
        line[name] = value
    return RunInfo("a", seed, f"t{seed}", metrics=lines)


def test_the_best_on_test_against_the_one_that_validation_chose():
    found = price([run(1, [2.0, 2.5, 2.3], [1.0, 1.1, 1.2]), run(2, [2.0, 2.1, 2.4], [3, 2, 1])], "pesq_wb")
    gains = [0.2, 0.4]
    assert (found.runs, found.checkpoints) == (2, 3)
    assert found.mean == pytest.approx(0.3)
    low, high = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_without_validation_the_last_one_stands_in_its_place():
    assert price([run(1, [2.0, 2.5, 2.3])], "pesq_wb").mean == pytest.approx(0.2)


def test_the_validation_of_the_metric_itself_comes_first():
    one = run(1, [2.0, 2.5, 2.3], [3.0, 2.0, 1.0])
    for line, value in zip(one.metrics, (1.0, 2.0, 1.0), strict=True):
        line["val/other"] = value
    assert price([one], "pesq_wb").mean == pytest.approx(0.5)


def test_a_metric_where_lower_is_better():
    lines = [{"step": i, "test/lsd": value} for i, value in enumerate((3.0, 1.0, 2.0))]
    assert price([RunInfo("a", 1, metrics=lines)], "lsd", -1).mean == pytest.approx(1.0)


def test_shared_trainings_count_once():
    assert price([run(1, [2.0, 2.5]), run(1, [2.0, 2.5])], "pesq_wb").runs == 1


@pytest.mark.parametrize("runs", [[], [run(1, [2.0])], [RunInfo("a", 1, metrics=[{"step": 1}])]])
def test_curves_without_test_scores_have_no_price(runs):
    assert price(runs, "pesq_wb") is None
    assert price_lines(None, "pesq_wb") == []


def test_the_sentence():
    (line,) = price_lines(price([run(1, [2.0, 2.5, 2.3]), run(2, [2.0, 2.6, 2.3])], "pesq_wb"), "pesq_wb")
    assert "best of 3 or more checkpoints" in line
    assert "+0.250" in line
