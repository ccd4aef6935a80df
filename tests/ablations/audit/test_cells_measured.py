from __future__ import annotations

from ablate.ablations import audit
from ablate.ablations.audit import budget, neighbours
from ablate.ablations.grid import Grid


def test_of_a_large_grid_the_networks_nearest_the_base_are_measured() -> None:
    grid = Grid.parse("bidirectional,core=lstm,mamba,layers=1,2,3,channels=16,32", baseline="bsrnn")
    every = grid.cells()
    chosen = neighbours.measured(every, audit._network, 8)
    assert [cell.name for cell in chosen if not cell.levels] == ["baseline"]
    names = {cell.name for cell in chosen}
    assert {"base", "bidirectional", "core=mamba", "layers=2", "layers=3", "channels=32"} <= names
    assert len(chosen) == 8
    (note,) = budget.not_measured(every, chosen, 8)
    assert (note.code, note.severity) == ("A404", "note")
    assert f"{len(every) - 8} of {len(every)} cells were not" in note.evidence


def test_cells_of_one_network_count_once() -> None:
    every = Grid.parse("pcs,mix_back=0,0.1", baseline=None).cells()
    assert neighbours.measured(every, audit._network, 1) == every


def test_small_grids_are_measured_whole() -> None:
    every = Grid.parse("bidirectional,core=lstm,mamba").cells()
    assert neighbours.measured(every, audit._network) == every
    assert list(budget.not_measured(every, every, 5)) == []
