from __future__ import annotations

import pytest

from ablate.reports.cost import Cost, costs, parameter_changes, pareto
from ablate.reports.sources import scores_from_study


def test_costs_come_from_the_summaries(planted_root):
    _, info = scores_from_study(planted_root)
    found = {cost.cell: cost for cost in costs(info)}
    assert len(found) == 9
    assert found["baseline"].parameters == 2963024
    assert found["baseline"].seconds_per_step == pytest.approx(0.5 + 0.2963024)
    assert found["baseline"].devices == ("cpu, 1 thread",)


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
    with pytest.raises(ValueError, match="'price' is not a cost"):
        pareto({}, [], "price")


def test_factors_that_change_the_size(planted_root):
    _, info = scores_from_study(planted_root)
    assert parameter_changes(info) == {
        "bidirectional": (360448, 360448),
        "decoder4x": (1813248, 1813248),
        "crossband": (839424, 839424),
    }
