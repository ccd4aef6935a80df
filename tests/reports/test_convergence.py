from __future__ import annotations

import math

import pytest

from ablate.reports.convergence import area, convergence, curves, default_threshold, points, steps_to
from ablate.reports.sources import StudyInfo, scores_from_study
from ablate.studies.scores import RunInfo


def test_points_are_finite_and_the_last_line_of_a_step_wins():
    lines = [
        {"step": 0, "val/pesq_wb": 1.0},
        {"step": 10},
        {"step": 20, "val/pesq_wb": math.nan},
        {"step": 10, "val/pesq_wb": 2.0},
        {"step": 10, "val/pesq_wb": 2.5},
    ]
    assert points(lines) == [(0, 1.0), (10, 2.5)]


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.5, 0.0), (1.5, 5.0), (2.0, 10.0), (2.5, 15.0), (3.1, None)]
)
def test_steps_to_a_threshold_are_interpolated(threshold, expected):
    assert steps_to([(0, 1.0), (10, 2.0), (20, 3.0)], threshold) == expected


def test_area_is_the_mean_height():
    assert area([(0, 1.0), (10, 3.0)]) == 2.0
    assert area([(0, 1.0), (10, 1.0), (40, 1.0)]) == 1.0
    assert area([(5, 2.0)]) == 2.0
    with pytest.raises(ValueError, match="without points"):
        area([])


def test_seeds_that_never_get_there_are_counted():
    def run(seed, top):
        return RunInfo("a", seed, metrics=[{"step": 0, "val/pesq_wb": 1.0}, {"step": 10, "val/pesq_wb": top}])

    info = StudyInfo("s", "test", runs=[run(1, 3.0), run(2, 1.5)])
    (found,) = convergence(info, threshold=2.0)
    assert (found.reached, found.seeds, found.steps_to_threshold) == (1, 2, 5.0)
    assert found.area == pytest.approx((2.0 + 1.25) / 2)


def test_curves_of_a_study(planted_root):
    _, info = scores_from_study(planted_root)
    found = {curve.cell: curve for curve in curves(info)}
    baseline = found["baseline"]
    assert baseline.steps == (0, 20, 40, 60)
    assert baseline.seeds == 3
    assert all(lo <= m <= hi for lo, m, hi in zip(baseline.low, baseline.mean, baseline.high, strict=True))
    assert list(baseline.mean) == sorted(baseline.mean)
    threshold = default_threshold(info)
    result = {item.cell: item for item in convergence(info)}
    base = result["bidirectional=off,decoder4x=off,crossband=pointwise"]
    assert result["baseline"].steps_to_threshold < base.steps_to_threshold
    assert result["baseline"].area > base.area
    assert base.threshold == threshold


def test_the_threshold_lies_within_the_curve_of_a_network_that_is_worse_than_its_input(planted_root):
    _, info = scores_from_study(planted_root)
    for run in info.runs:
        run.summary["noisy_val_pesq_wb"] = 9.0
    heights = [value for run in info.runs for _, value in points(run.metrics)]
    assert min(heights) < default_threshold(info) < max(heights)
