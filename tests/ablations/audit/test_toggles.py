from __future__ import annotations

from types import ModuleType

import pytest

from ablate.ablations.audit import Finding, audit_cells, declarations, toggles, uncovered
from ablate.ablations.audit.neighbours import untoggled
from ablate.ablations.factors import Factor, find
from ablate.ablations.grid import Cell, Grid
from ablate.models.config import ModelConfig
from ablate.training.config import RECIPES, RunConfig

SMALL = ModelConfig(
    channels=16, layers=1, crossband_layers=1, crossband="pointwise", decoder_expansion=1, d_state=4
)
QUICK = RECIPES["quick"].model_copy(update={"crop_seconds": 0.2})


def cells_of(factor: Factor, **fields: object) -> list[Cell]:
    start = RunConfig(model=SMALL.model_copy(update=fields), recipe=QUICK)
    return [
        Cell(name=level, levels={factor.name: level}, config=start.with_changes(delta))
        for level, delta in factor.levels.items()
    ]


def effects(factor: Factor, **fields: object) -> list[Finding]:
    return list(toggles.without_effect(cells_of(factor, **fields), (factor,)))


def hidden(factor: Factor, **fields: object) -> list[Finding]:
    return list(toggles.hidden_changes(cells_of(factor, **fields), (factor,)))


@pytest.mark.parametrize(
    ("name", "levels", "fields"),
    [
        ("bidirectional", None, {"core": "AlwaysCausal"}),
        ("clamps", ["off", "on"], {}),
        ("d_state", ["4", "8"], {}),
        ("decoder4x", None, {"decoder": "shared"}),
        ("bidirectional", None, {"architecture": "Foreign"}),
        ("recipe.discriminator_learning_rate", ["0.001", "0.01"], {}),
        ("recipe.width", ["1.0", "0.5"], {}),
    ],
)
def test_levels_that_change_nothing_are_found(faults: ModuleType, name, levels, fields) -> None:
    (found,) = effects(find(name, levels), **fields)
    assert (found.code, found.severity, found.where) == ("A201", "error", name)


@pytest.mark.parametrize(
    ("name", "levels", "fields"),
    [
        ("bidirectional", None, {}),
        ("clamps", ["off", "on"], {"core": "mamba"}),
        ("ssm_skip", ["right", "shadowed"], {"core": "mamba"}),
        ("dt_init", ["kept", "wiped"], {"core": "mamba"}),
        ("pcs", None, {}),
        ("discriminator", None, {}),
        ("learning_rate", ["0.001", "0.002"], {}),
        ("order", ["stacked", "interleaved"], {"layers": 2, "crossband_layers": 2}),
    ],
)
def test_levels_that_change_something_are_not(name, levels, fields) -> None:
    assert not effects(find(name, levels), **fields)


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("n_fft", ["512", "320"]),
        ("window", ["hann", "sqrt-hann"]),
        ("norm", ["group", "batch"]),
        ("chunk", ["0", "8"]),
        ("core", ["lstm", "mamba+attention"]),
        ("core", ["lstm", "xlstm"]),
        ("recipe.target", ["clean", "pcs"]),
    ],
)
def test_the_levels_of_an_axis_change_what_they_say_and_no_more(name: str, levels: list[str]) -> None:
    factor = find(name, levels)
    found = audit_cells(cells_of(factor), (factor,))
    assert [finding.code for finding in found if finding.severity == "error"] == []


def test_a_level_without_effect_in_some_cells_only_is_a_note() -> None:
    core, clamps = find("core", ["lstm", "mamba"]), find("clamps", ["off", "on"])
    start = RunConfig(model=SMALL, recipe=QUICK)
    cells = [
        Cell(
            name=f"{a}-{b}",
            levels={"core": a, "clamps": b},
            config=start.with_changes({"model.core": a, "model.clamps": b}),
        )
        for a in ("lstm", "mamba")
        for b in ("off", "on")
    ]
    (found,) = toggles.without_effect(cells, (core, clamps))
    assert (found.severity, found.where) == ("note", "clamps")
    assert "lstm-off and lstm-on" in found.evidence


@pytest.mark.parametrize(
    ("factor", "fields"),
    [
        (
            Factor(
                name="fake",
                levels={"off": {"model.crossband": "none"}, "on": {"model.crossband": "pointwise"}},
                declares={"on": {"mixes_bands": True}},
            ),
            {},
        ),
        (find("bidirectional"), {"core": "AlwaysCausal"}),
        (find("decoder4x"), {"decoder": "WrongWidth"}),
        (find("bidirectional"), {"architecture": "Foreign"}),
    ],
)
def test_a_level_that_does_not_do_what_it_declares_is_found(faults: ModuleType, factor, fields) -> None:
    found = list(declarations.of_factors(cells_of(factor, **fields), (factor,)))
    assert f"{factor.name}=on" in [f.where for f in found]
    assert {f.code for f in found} == {"A202"}


def test_what_tuning_sets_is_no_hidden_change() -> None:
    factor = find("bidirectional")
    first, second = cells_of(factor)
    tuned = second.model_copy(update={"config": second.config.with_changes({"recipe.learning_rate": 0.01})})
    (finding,) = toggles.hidden_changes([first, tuned], (factor,))
    assert finding.evidence.startswith("recipe.learning_rate changes")
    assert not list(toggles.hidden_changes([first, tuned], (factor,), {"recipe.learning_rate"}))


@pytest.mark.parametrize("name", ["bidirectional", "decoder4x", "crossband"])
def test_the_built_in_factors_do_what_they_declare(name: str) -> None:
    factor = find(name)
    cells = cells_of(factor)
    assert not list(declarations.of_factors(cells, (factor,)))
    assert not list(toggles.hidden_changes(cells, (factor,)))


@pytest.mark.parametrize(
    ("levels", "declares"),
    [
        (
            {"off": {"model.direction": "uni"}, "on": {"model.direction": "bi", "model.channels": 24}},
            {},
        ),
        ({"off": {}, "on": {"model.direction": "bi", "recipe.learning_rate": 0.01}}, {}),
        ({"off": {}, "on": {"model.direction": "bi", "model.decoder_expansion": 2}}, {}),
        (
            {
                "off": {"model.direction": "uni", "model.decoder_expansion": 1},
                "on": {"model.direction": "bi", "model.decoder_expansion": 2},
            },
            {"on": {"looks_ahead": True}},
        ),
    ],
)
def test_fields_that_a_level_does_not_declare_are_found(levels, declares) -> None:
    (found,) = hidden(Factor(name="more", levels=levels, declares=declares))
    assert found.code == "A203"


def test_parts_that_change_along_are_found(faults: ModuleType) -> None:
    (found,) = hidden(find("bidirectional"), architecture="Meddling")
    assert "'decoder' changes too" in found.evidence
    (found,) = hidden(find("bidirectional"), architecture="MeddlingQuietly")
    assert "head gives other outputs" in found.evidence


def test_what_no_factor_covers_is_noted_with_a_command() -> None:
    grid = Grid.parse("bidirectional,decoder4x,crossband")
    (found,) = untoggled(grid.cells(), grid.factors)
    assert (found.code, found.severity) == ("A301", "note")
    assert "model.core mamba -> lstm" in found.evidence
    assert "core=mamba,lstm" in found.remedy


def test_a_change_of_size_is_noted() -> None:
    factor = find("decoder4x")
    (found,) = uncovered.capacity(cells_of(factor), (factor,))
    assert (found.code, found.severity) == ("A302", "note")
    small = find("clamps", ["off", "on"])
    assert not list(uncovered.capacity(cells_of(small), (small,)))


@pytest.mark.slow
def test_the_grid_of_the_claim_has_notes_only() -> None:
    grid = Grid.parse("bidirectional,decoder4x,crossband")
    found = audit_cells(grid.cells(), grid.factors, runs=27)
    assert {f.severity for f in found} == {"note"}
    assert {"A301", "A302", "A403"} <= {f.code for f in found}
    assert [f.code for f in found] == sorted(f.code for f in found)
