from __future__ import annotations

import pytest

from ablate.ablations.audit.toggles import without_effect
from ablate.ablations.audit.uncovered import equal_size
from ablate.ablations.grid import Grid
from ablate.models import build_model
from ablate.models.config import ModelConfig
from ablate.models.errors import InputError
from ablate.models.summary import macs_per_second


def grid(text: str, **changes: object) -> Grid:
    settings = {"model.channels": 48, "model.layers": 1, "model.crossband_layers": 1, **changes}
    return Grid.parse(text, base="bsrnn", baseline=None, recipe="quick", set=settings)


def count(config: ModelConfig) -> int:
    return sum(p.numel() for p in build_model(config).parameters())


@pytest.mark.slow
def test_each_cell_has_the_parameters_of_the_base_by_the_nearest_width() -> None:
    found = grid("core=lstm,mamba,attention,conformer", **{"recipe.match": "parameters"})
    base, *others = found.cells()
    assert base.config.model.channels == 48
    wanted = count(base.config.model)
    for cell in others:
        step = {"mamba": 1, "attention": 8, "conformer": 8}[cell.levels["core"]]
        widths = range(step, 120, step)
        sizes = {w: count(cell.config.model.model_copy(update={"channels": w})) for w in widths}
        nearest = min(sizes, key=lambda w: abs(sizes[w] - wanted))
        assert cell.config.model.channels == nearest
        assert abs(sizes[nearest] / wanted - 1) <= 0.03
    (note,) = equal_size(found.cells(), found.factors)
    assert (note.code, note.severity) == ("A303", "note")
    assert f"core=mamba {others[0].config.model.channels} channels" in note.evidence


def test_macs_are_matched_likewise() -> None:
    base, other = grid("direction=uni,bi", **{"recipe.match": "macs"}).cells()
    at = [
        abs(
            macs_per_second(other.config.model.model_copy(update={"channels": w}))
            - macs_per_second(base.config.model)
        )
        for w in range(other.config.model.channels - 1, other.config.model.channels + 2)
    ]
    assert min(at) == at[1]


def test_a_factor_that_is_size_is_not_matched_away() -> None:
    small, small_bi, large, large_bi = grid(
        "channels=48,64,direction=uni,bi", **{"recipe.match": "parameters"}
    ).cells()
    sizes = [count(cell.config.model) for cell in (small, small_bi, large, large_bi)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.03)
    assert sizes[3] == pytest.approx(sizes[2], rel=0.03)
    assert sizes[2] > 1.2 * sizes[0]


def test_free_and_matched_cells_of_one_network_share_their_trainings() -> None:
    cells = grid("core=lstm,mamba,recipe.match=free,parameters").cells()
    signatures = {tuple(cell.levels.values()): cell.config.signed_fields() for cell in cells}
    assert signatures["lstm", "free"] == signatures["lstm", "parameters"]
    assert signatures["mamba", "free"] != signatures["mamba", "parameters"]


def test_a_match_that_changes_no_width_is_a_note() -> None:
    found = grid("core=lstm,gru,recipe.match=free,parameters", **{"model.channels": 16})
    notes = [f for f in without_effect(found.cells(), found.factors) if f.where == "recipe.match"]
    assert [note.severity for note in notes] == ["note"]


def test_what_no_width_matches_is_refused_with_the_nearest() -> None:
    changes = {"recipe.match": "parameters"}
    with pytest.raises(InputError, match=r"direction=bi.*the nearest is 276,917 \(-3\.4%\) at 15 channels"):
        Grid.parse("direction=uni,bi", base="bsrnn", baseline=None, recipe="small", set=changes)
