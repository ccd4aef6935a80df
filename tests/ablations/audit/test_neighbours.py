from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ablate.ablations.audit.neighbours import neighbours
from ablate.ablations.factors import Factor
from ablate.ablations.grid import Cell
from ablate.training.config import RunConfig

CONFIG = RunConfig.of("bsrnn")
FACTORS = [
    Factor(name="abc"[i], levels={str(level): {"model.layers": level + 1} for level in range(n)})
    for i, n in enumerate((3, 2, 2))
]
COMBINATIONS = list(itertools.product("012", "01", "01"))


def cell(name: str, levels: dict[str, str]) -> Cell:
    return Cell.model_construct(name=name, levels=levels, config=CONFIG)


@given(st.lists(st.sampled_from(COMBINATIONS), unique=True), st.sampled_from(FACTORS))
def test_neighbours_are_all_pairs_that_differ_in_one_factor(chosen, factor: Factor) -> None:
    cells = [cell("".join(c), dict(zip("abc", c, strict=True))) for c in chosen]
    cells.append(cell("baseline", {}))
    wanted = {
        tuple(c.name for c in sorted((x, y), key=lambda c: c.levels[factor.name]))
        for x, y in itertools.combinations(cells[:-1], 2)
        if [n for n in "abc" if x.levels[n] != y.levels[n]] == [factor.name]
    }
    found = list(neighbours(cells, factor))
    assert {(x.name, y.name) for x, y in found} == wanted
    assert len(found) == len(wanted)


def test_neighbours_of_2048_cells() -> None:
    names = [f"f{i}" for i in range(11)]
    cells = [cell("", dict(zip(names, c, strict=True))) for c in itertools.product("01", repeat=11)]
    factors = [Factor(name=n, levels={"0": {"model.layers": 1}, "1": {"model.layers": 2}}) for n in names]
    assert sum(1 for factor in factors for _ in neighbours(cells, factor)) == 11 * 1024
