from __future__ import annotations

import random

import pytest

from ablate.ablations.grid import Grid
from ablate.models import PRESETS, build_model
from ablate.studies.plan.sizes import Sizes

GRID = (
    "bidirectional,decoder4x,crossband,norm=layer,group,core=mamba,lstm,channels=16,32,"
    "decoder=per-band,shared"
)


def parameters(config):
    return sum(parameter.numel() for parameter in build_model(config).parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_size_is_that_of_its_network(name):
    assert Sizes().of(PRESETS[name]) == parameters(PRESETS[name])


def test_sizes_put_together_from_parts_are_those_of_the_networks():
    sizes, cells = Sizes(), Grid.parse(GRID).cells()
    found = {cell.name: sizes.of(cell.config.model) for cell in cells}
    for cell in random.Random(0).sample(cells, 12):
        assert found[cell.name] == parameters(cell.config.model), cell.name


def test_many_cells_are_counted_by_few_networks(monkeypatch):
    from ablate import models

    built = []
    monkeypatch.setattr(models, "build_model", lambda config: built.append(config) or build_model(config))
    sizes, cells = Sizes(), Grid.parse(GRID).cells()
    for cell in cells:
        sizes.of(cell.config.model)
    assert len(built) < len(cells) / 4
