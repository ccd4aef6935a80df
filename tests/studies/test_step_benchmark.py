from __future__ import annotations

import pytest

from ablate.models.errors import InputError
from ablate.studies import step_benchmark
from ablate.studies.launchers.slots import Gpu, Slot
from ablate.studies.step_benchmark import step_costs


@pytest.fixture
def cells(make_plan):
    plan = make_plan("bidirectional,pcs", (1,))
    small = {"model.channels": 8, "model.layers": 1, "recipe.batch_size": 2, "recipe.crop_seconds": 0.25}
    return [
        cell.model_copy(update={"config": cell.config.with_changes(small)})
        for cell in plan.cells
        if cell.name != "baseline"
    ]


@pytest.mark.slow
def test_steps_are_measured_once_for_cells_that_train_alike(cells):
    costs = step_costs(cells, Slot(1))
    assert set(costs) == {cell.name for cell in cells}
    assert costs["base"] == costs["pcs"] != costs["bidirectional"]
    assert all(0 < cost.seconds < 60 and cost.memory > 1e6 for cost in costs.values())


@pytest.mark.slow
def test_a_device_that_is_not_there_is_an_error(cells):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match=r"no training step could be timed on cuda: .*cuda"):
        step_costs(cells[:1], Slot(1, Gpu("0")))


def test_the_process_gets_the_slot_and_the_plug_ins(cells, monkeypatch):
    def run(command, **options):
        given.append(options)
        raise InterruptedError

    given = []
    monkeypatch.setattr(step_benchmark.subprocess, "run", run)
    with pytest.raises(InterruptedError):
        step_costs(cells, Slot(3, Gpu("GPU-7")), ["net.py"])
    (options,) = given
    assert options["env"]["CUDA_VISIBLE_DEVICES"] == "GPU-7"
    assert options["env"]["OMP_NUM_THREADS"] == "3"
    assert '"plugins": ["net.py"], "device": "cuda", "threads": 3' in options["input"]
