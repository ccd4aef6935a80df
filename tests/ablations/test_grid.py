from __future__ import annotations

import itertools
import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.ablations.design import Design, check_factor_name, fraction
from ablate.ablations.factors import Factor, find, parse_value
from ablate.ablations.grid import Grid, parse_factors, parse_settings, safe_name
from ablate.models.config import ARCHITECTURES, CORES, CROSSBANDS, DECODERS, HEADS, ModelConfig
from ablate.models.errors import InputError
from ablate.training.config import Evaluation, Recipe, RunConfig

THREE = "bidirectional,decoder4x,crossband"


def levels_of(grid: Grid) -> list[dict[str, str]]:
    return [cell.levels for cell in grid.cells()]


def test_full_factorial_has_every_cell_once_and_the_baseline_last():
    cells = Grid.parse(THREE).cells()
    assert len(cells) == 9
    assert cells[0].name == "base"
    assert set(cells[0].levels.values()) == {"off"}
    assert (cells[-1].name, cells[-1].levels) == ("baseline", {})
    assert len({cell.name for cell in cells}) == 9
    assert len({cell.config.model_dump_json() for cell in cells}) == 9


def test_a_level_is_its_delta_and_nothing_else():
    cells = {cell.name: cell.config for cell in Grid.parse(THREE).cells()}
    base, bi = cells["base"].flat(), cells["bidirectional"].flat()
    assert {path for path in base if base[path] != bi[path]} == {"model.direction"}
    assert cells["bidirectional+decoder4x+crossband"].model.decoder_expansion == 4


def test_bare_words_extend_a_list_of_levels():
    core, direction = parse_factors("core=lstm,mamba,gru,bidirectional")
    assert list(core.levels) == ["lstm", "mamba", "gru"]
    assert core.levels["mamba"] == {"model.core": "mamba"}
    assert (core.off, direction.name) == ("lstm", "bidirectional")


def test_field_levels_are_values_of_the_field():
    (factor,) = parse_factors("recipe.learning_rate=1e-3,3e-4")
    assert [delta["recipe.learning_rate"] for delta in factor.levels.values()] == [1e-3, 3e-4]


def test_crossband_takes_the_modules_as_levels():
    names = [cell.config.model.crossband for cell in Grid.parse("crossband=none,bimamba").cells()]
    assert names == ["none", "bimamba", "bilstm"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bidirectonal", "did you mean 'bidirectional'"),
        ("bidirectional,bidirectional", "is given twice"),
        ("core", "needs levels"),
        ("core=lstm", "at least two levels"),
        ("core=lstm,lstm", "is given twice"),
        ("core=lstm,mambo", "unknown core 'mambo'; did you mean 'mamba'"),
        ("pcs=off,maybe", "no level 'maybe'"),
        ("bidirectional,", "empty entry"),
        ("direction=uni,bi,bidirectional", "two factors set model.direction"),
    ],
)
def test_bad_grids_say_what_is_wrong(text, words):
    with pytest.raises(ValueError, match="(?s)" + words):
        Grid.parse(text)


WORDS = {
    f"{section}.{name}": words
    for section, kind in {"model": ModelConfig, "recipe": Recipe, "evaluation": Evaluation}.items()
    for name, field in kind.model_fields.items()
    if len(words := [w for w in get_args(field.annotation) if isinstance(w, str)]) > 1
}
PARTS = {
    "model.architecture": ARCHITECTURES,
    "model.core": CORES,
    "model.crossband": CROSSBANDS,
    "model.decoder": DECODERS,
    "model.head": HEADS,
}


@pytest.mark.parametrize(
    ("path", "right"),
    [(path, word) for path, words in (WORDS | PARTS).items() for word in sorted(words) if len(word) > 2],
)
def test_a_misspelt_word_is_refused_with_the_nearest_right_one(path, right):
    wrong = f"{right}_"
    with pytest.raises(InputError, match=f"{re.escape(path)}.*; did you mean '{right}'"):
        Grid.parse("bidirectional", set={path: wrong})
    with pytest.raises(InputError, match=f"{re.escape(path)}.*; did you mean '{right}'"):
        Grid.parse(f"{path}={right},{wrong}", base="bsrnn")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("core=mambo,lstm", "model.core: unknown core 'mambo'; did you mean 'mamba'"),
        ("norm=group,layers", "model.norm.* did you mean 'layer'"),
        ("bands=bsrnn,mell:16", "unknown band layout 'mell'; did you mean 'mel'"),
        ("bands=bsrnn,mel:300", "use 1 to 257 bands"),
        ("bands=bsrnn,mel", "needs a number of bands, e.g. mel:16"),
        ("bands=bsrnn,16", "needs a layout, e.g. mel:16"),
        ("lookahead=0,-1", "model.lookahead: .* greater than or equal to 0"),
        ("lookahead=0,1.5", "model.lookahead: .* integer"),
        ("kernel=3,0", "model.kernel: .* greater than 0"),
        ("dilations=4,0", "model.dilations: .* greater than 0"),
        ("input_compression=1,0", "model.input_compression: .* greater than 0"),
        ("decoder_expansion=2,100", "not in \\(0, 64\\]"),
        ("recipe.si_sdr_weight=0,-1", "recipe.si_sdr_weight: .* greater than or equal to 0"),
        ("recipe.stft_weigth=0,1", "did you mean 'stft_weight'"),
        ("recipe.consistency=0,1", "did you mean 'consistency_weight'"),
        ("recipe.shedule=step,cosine", "did you mean 'schedule'"),
        ("recipe.remix=0,1.5", "recipe.remix: .* less than or equal to 1"),
        ("recipe.reverb=0,-0.1", "recipe.reverb: .* greater than or equal to 0"),
        ("recipe.bandmask=0,0.5", "did you mean 'band_mask'"),
        ("recipe.gain=0,loud", "recipe.gain: .* number"),
        ("evaluation.taps=3,4", "evaluation.taps: .*1, 2 or 3"),
        ("evaluation.mix_back=0,2", "evaluation.mix_back: .* less than or equal to 1"),
        ("evaluation.mixback=0,0.1", "did you mean 'mix_back'"),
        ("evaluation.metrics=lsd,dnsmos_over", "did you mean 'dnsmos_ovrl'"),
    ],
)
def test_a_wrong_value_of_any_axis_is_refused(text, words):
    with pytest.raises(InputError, match=words):
        Grid.parse(text)


def test_of_many_known_names_an_error_lists_the_nearest_alone():
    with pytest.raises(InputError, match=r"'recipe.shedule'; did you mean 'recipe.schedule'\?$"):
        parse_settings(["recipe.shedule=cosine"])


def test_changes_reach_every_cell_but_spare_the_baseline_network():
    grid = Grid.parse(THREE, set={"model.channels": 48, "recipe.steps": 7})
    cells = grid.cells()
    assert {cell.config.recipe.steps for cell in cells} == {7}
    assert {cell.config.model.channels for cell in cells[:-1]} == {48}
    assert cells[-1].config.model == RunConfig.of("bsrnn", "quick").model


def test_a_changed_rule_shrinks_base_and_baseline():
    changes = {"recipe.width": 0.5, "recipe.depth": 0.2}
    cells = Grid.parse("bidirectional", set=changes).cells()
    sizes = [(cell.config.model.channels, cell.config.model.layers) for cell in cells]
    assert sizes == [(64, 1), (64, 1), (32, 1)]


@pytest.mark.parametrize(
    ("design", "count"), [("full", 9), ("add-one", 5), ("leave-one-out", 6), ("fractional", 5)]
)
def test_designs(design, count):
    cells = Grid.parse(THREE, design=design).cells()
    assert len(cells) == count
    assert cells[0].name == "base"


def test_fractional_design_names_its_aliases():
    assert Grid.parse(THREE, design="fractional").crossed().chains == [
        "bidirectional = - decoder4x x crossband",
        "decoder4x = - bidirectional x crossband",
        "crossband = - bidirectional x decoder4x",
    ]


@given(st.integers(3, 7))
def test_fractions_are_balanced_orthogonal_and_hold_the_base(k):
    rows = fraction([2] * k)
    assert [0] * k in rows
    assert len(rows) < 2**k
    for a, b in itertools.combinations(range(k), 2):
        pairs = [(row[a], row[b]) for row in rows]
        assert all(pairs.count(pair) == len(rows) / 4 for pair in itertools.product((0, 1), repeat=2))


def test_constraints_leave_cells_out():
    grid = Grid.parse(THREE, constraints=({"bidirectional": "on", "crossband": "on"},))
    assert len(grid.cells()) == 7
    with pytest.raises(ValueError, match="is not a factor and level"):
        Grid.parse(THREE, constraints=({"bidirectional": "sideways"},))
    with pytest.raises(ValueError, match="exclude the base"):
        Grid.parse(THREE, constraints=({"bidirectional": "off"},))


@given(st.permutations(THREE.split(",")))
def test_order_of_factors_changes_no_configuration(names):
    configs = {cell.config.model_dump_json() for cell in Grid.parse(",".join(names)).cells()}
    assert configs == {cell.config.model_dump_json() for cell in Grid.parse(THREE).cells()}


def test_a_claim_belongs_to_the_first_two_levels_in_their_order():
    (claim,) = find("bidirectional").claims
    assert (claim.low, claim.high, claim.level) == (0.2, 0.3, "on")
    assert find("bidirectional", ["on", "off"]).claims == ()


def test_a_factor_of_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match=r"model\.dirction"):
        Factor(name="x", levels={"off": {"model.dirction": "uni"}, "on": {"model.dirction": "bi"}})


@pytest.mark.parametrize(
    ("text", "value"),
    [("4", 4), ("1e-3", 1e-3), ("bi", "bi"), ("on", "on"), ("[1, 2]", [1, 2]), ("null", None)],
)
def test_values(text, value):
    assert parse_value(text) == value


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "a b", "x" * 300])
def test_names_cannot_leave_their_folder(name):
    with pytest.raises(ValueError, match="study name"):
        safe_name(name, "study")


def test_recipe_without_steps_is_possible_only_with_epochs():
    assert Recipe(epochs=2).steps is None


def test_measures_are_set_as_a_list_of_names():
    grid = Grid.parse("bidirectional", set=parse_settings(["evaluation.metrics=lsd,dnsmos_ovrl"]))
    assert {cell.config.evaluation.metrics for cell in grid.cells()} == {("lsd", "dnsmos_ovrl")}


def test_settings_are_values_of_fields():
    assert parse_settings(["recipe.steps=400", "model.core=gru"]) == {
        "recipe.steps": 400,
        "model.core": "gru",
    }


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (["recipe.steps"], "write name=value"),
        (["recipe.step=4"], r"did you mean 'recipe\.steps'"),
        (["recipe.steps=4", "recipe.steps=5"], "twice"),
        (["evaluation.metrics=[lsd]"], "not a JSON list"),
    ],
)
def test_bad_settings(items, words):
    with pytest.raises(ValueError, match=words):
        parse_settings(items)


@pytest.mark.parametrize(
    "name", ["noise", "snr", "speaker", "baseline", "base", "pesq_wb", "seed", "noisy_x"]
)
def test_a_factor_with_the_name_of_a_column_is_refused_before_training(name):
    levels = {"off": {"model.direction": "uni"}, "on": {"model.direction": "bi"}}
    grid = Grid.of((Factor(name=name, levels=levels),))
    with pytest.raises(InputError, match=f"cannot be called '{name}'"):
        grid.cells()
    check_factor_name("noise_level")


def test_a_design_that_constraints_leave_without_any_main_effect_is_refused():
    out = {"bidirectional": "on", "decoder4x": "on", "crossband": "on"}
    for design, excluded, left in (
        ("leave-one-out", (out,), "4 of the 5"),
        ("fractional", ({"bidirectional": "on"}, {"decoder4x": "on"}), "1 of the 4"),
        ("full", ({"bidirectional": "on"}, {"decoder4x": "on"}, {"crossband": "on"}), "1 of the 8"),
    ):
        with pytest.raises(InputError, match=f"leave {left} cells of this {design} design"):
            Grid.parse(THREE, design=design, constraints=excluded)
    kept = Grid.parse(
        THREE, design="leave-one-out", constraints=({"bidirectional": "off", "crossband": "on"},)
    )
    names = [name for _, name, terms in kept.crossed().main_effects() if terms]
    assert names == ["decoder4x", "crossband"]


def test_a_design_is_a_matrix_of_levels():
    design = Design.of({"a": ("off", "on"), "core": ("lstm", "gru", "mamba")}, "add-one")
    assert design.matrix.tolist() == [[0, 0], [1, 0], [0, 1], [0, 2]]
    assert design.cells()[3] == {"a": "off", "core": "mamba"}
    assert Design.of(design.levels).possible() == 6
    assert Design.of(design.levels, constraints=[{"a": "on", "core": "gru"}]).possible() == 5
    with pytest.raises(InputError, match="unknown design 'half'"):
        Design.of(design.levels, "half")


def test_the_second_level_may_have_the_name_of_a_factor() -> None:
    factors = Grid.parse("recipe.target=clean,pcs,pcs,evaluation.taps=3,1").factors
    assert [list(factor.levels) for factor in factors] == [["clean", "pcs"], ["off", "on"], ["3", "1"]]
