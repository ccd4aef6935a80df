from __future__ import annotations

import itertools
import re
import subprocess
import sys

import pytest

from ablate.ablations.diff import differences, propose
from ablate.ablations.grid import BASELINE, Grid
from ablate.models.config import PRESETS
from ablate.training.config import RunConfig

CLAIM = Grid.parse("bidirectional,decoder4x,crossband")
CELLS = {cell.name: cell.config for cell in CLAIM.cells()}


def groups(a: RunConfig, b: RunConfig, factors=()) -> dict[str, str]:
    return {d.path: d.group for d in differences(a, b, factors)}


def test_base_and_baseline_of_the_claim() -> None:
    found = groups(CELLS["base"], CELLS[BASELINE], CLAIM.factors)
    assert {p for p, g in found.items() if g == "toggled"} == {
        "model.crossband",
        "model.decoder_expansion",
    }
    assert {p for p, g in found.items() if g == "not toggled"} == {
        "model.channels",
        "model.core",
        "model.norm",
        "model.crossband_layers",
    }


def test_what_only_one_of_two_cores_reads_is_a_consequence() -> None:
    grid = Grid.parse("core=mamba,lstm")
    mamba = RunConfig.of("mbsnet")
    lstm = mamba.with_changes({"model.core": "lstm", "model.d_state": 16, "model.clamps": "on"})
    found = groups(mamba, lstm, grid.factors)
    assert found == {
        "model.core": "toggled",
        "model.d_state": "consequence",
        "model.clamps": "consequence",
    }
    assert groups(mamba, lstm)["model.d_state"] == "not toggled"


def test_equal_configurations_and_bookkeeping_differ_in_nothing() -> None:
    a = RunConfig.of("bsrnn")
    assert differences(a, a.with_changes({"recipe.checkpoint_every": 7})) == []


def grid_of(command: str) -> Grid:
    options = dict(re.findall(r"--(\w+) (\S+)", command))
    return Grid.parse(
        options["grid"],
        base=options["base"],
        baseline=options["baseline"],
        recipe=options["recipe"],
        design=options.get("design", "full"),
    )


def test_the_proposed_command_covers_every_difference() -> None:
    command = propose(CELLS["base"], CELLS[BASELINE], CLAIM.factors)
    grid = grid_of(command)
    assert {"bidirectional", "decoder4x", "crossband", "core"} <= {f.name for f in grid.factors}
    cells = {cell.name: cell.config for cell in grid.cells()}
    found = groups(cells["base"], cells[BASELINE], grid.factors)
    assert set(found.values()) <= {"toggled", "consequence"}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (a, b)
        for a, b in itertools.permutations(PRESETS, 2)
        if PRESETS[a].architecture == PRESETS[b].architecture and "bsrnn" in (a, b)
    ],
)
def test_a_command_is_proposed_for_any_two_presets(a: str, b: str) -> None:
    first, second = RunConfig.of(a, "quick"), RunConfig.of(b, "quick")
    if not differences(first, second):
        return
    grid = grid_of(propose(first, second, base_name=a, baseline_name=b))
    cells = {cell.name: cell.config for cell in grid.cells()}
    assert "not toggled" not in groups(cells["base"], cells[BASELINE], grid.factors).values()


def test_importing_it_needs_no_torch() -> None:
    code = "import ablate.ablations.diff, ablate.ablations.audit, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
