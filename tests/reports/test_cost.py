from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ablate.reports.cost import COSTS, EFFICIENCY, Cost, costs, parameter_changes, pareto
from ablate.reports.sources import scores_from_study
from ablate.reports.tables import cells_table


def test_costs_come_from_the_summaries(planted_root):
    _, info = scores_from_study(planted_root)
    found = {cost.cell: cost for cost in costs(info)}
    assert len(found) == 9
    assert found["baseline"].parameters == 2963024
    assert found["baseline"].seconds_per_step == pytest.approx(0.5 + 0.2963024)
    assert found["baseline"].devices == ("cpu, 1 thread",)
    assert found["baseline"].latency_ms == math.inf
    assert {cost.one_thread_factor for cost in found.values()} == {0.25}
    assert {cost.processors for cost in found.values()} == {("Test CPU",)}


def test_a_factor_of_several_threads_is_none_of_one(planted_root):
    _, info = scores_from_study(planted_root)
    several = [replace(run, summary=run.summary | {"threads": 2}) for run in info.runs]
    assert {cost.one_thread_factor for cost in costs(replace(info, runs=several))} == {None}
    measured = [
        replace(run, summary=run.summary | {"one_thread_factor": 0.5, "processor": "P"}) for run in several
    ]
    found = costs(replace(info, runs=measured))
    assert {(cost.one_thread_factor, cost.processors) for cost in found} == {(0.5, ("P",))}


def test_what_a_network_costs_stands_beside_its_score(report):
    table = cells_table(report)
    ends = {row[0]: row[-4:] for row in table.rows}
    assert table.head[-4:] == [COSTS[key] for key in EFFICIENCY]
    assert ends["base"] == ["2,139,920", "1.00 G", "40 ms", "0.25"]
    assert ends[report.baseline_name][2] == "the utterance"
    assert "one thread of Test CPU" in table.caption


def test_front_keeps_what_nothing_beats():
    cells = [Cost("small", 1, 1.0), Cost("worse", 1, 2.0), Cost("big", 1, 3.0), Cost("same", 1, 3.0)]
    points = pareto({"small": 2.0, "worse": 1.9, "big": 3.0, "same": 3.0}, cells)
    assert {p.cell: p.on_front for p in points} == {
        "small": True,
        "worse": False,
        "big": True,
        "same": True,
    }
    assert [p.cost for p in points] == [1.0, 2.0, 3.0, 3.0]
    lower = pareto({"small": 2.0, "worse": 2.1, "big": 1.0, "same": 1.0}, cells, direction=-1)
    assert [p.on_front for p in lower] == [p.on_front for p in points]


def test_cells_without_a_cost_or_score_are_left_out():
    points = pareto({"a": 1.0}, [Cost("a", 1, None, 5.0), Cost("b", 1, 1.0)])
    assert points == []
    with pytest.raises(ValueError, match="unknown cost 'price'"):
        pareto({}, [], "price")


def test_factors_that_change_the_size(planted_root):
    _, info = scores_from_study(planted_root)
    assert parameter_changes(info) == {
        "bidirectional": (360448, 360448),
        "decoder4x": (1813248, 1813248),
        "crossband": (839424, 839424),
    }
