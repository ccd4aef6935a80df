from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from ablate.ablations.factors import claims_on
from ablate.studies.plan.model import StoredKind
from ablate.studies.study import Study, Tuning, parse_seeds
from ablate.studies.study_file import asked, read_file
from ablate.studies.tune import candidates


@pytest.mark.parametrize(("text", "seeds"), [("3", (1, 2, 3)), ("4:6", (4, 5, 6)), ("7:7", (7,))])
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["0", "3:1", "-1", "a", "1:", "1,2", ""])
def test_bad_seeds(text):
    with pytest.raises(ValueError, match="seeds"):
        parse_seeds(text)


def test_tuning_ranges():
    tuning = Tuning(space={"recipe.learning_rate": "1e-4..3e-3", "recipe.clip": "1..5"}, trials=4)
    assert tuning.space == {"recipe.learning_rate": (1e-4, 3e-3), "recipe.clip": (1.0, 5.0)}


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("recipe.learning_rate=1e-4", "write low..high"),
        ("recipe.learning_rate=3e-3..1e-4", "is empty"),
        ("model.channels=8..16", "not a recipe field"),
    ],
)
def test_bad_tuning(item, words):
    with pytest.raises(ValueError, match=words):
        Tuning(space=dict([item.split("=")]), trials=4)


STUDY = """
base: mbsnet
factors:
  bidirectional:
  crossband: {levels: [none, bimamba]}
  decoder4x: {claim: [0.0, 0.4], source: me}
  wide: {levels: {off: {model.channels: 32}, on: {model.channels: 64}}}
constraints:
  - {bidirectional: on, wide: on}
seeds: 2:3
recipe: small
set: {recipe.learning_rate: 1e-4}
endpoint: {metric: stoi, margin: 0.01}
data: speech
"""


def test_study_file(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    request = Study.model_validate(read_file(path))
    assert [f.name for f in request.factors] == ["bidirectional", "crossband", "decoder4x", "wide"]
    assert list(request.factors[0].levels) == ["off", "on"]
    assert list(request.factors[1].levels) == ["none", "bimamba"]
    claim = claims_on(request.factors, "stoi")["decoder4x"]
    assert (claim.high, claim.source) == (0.4, "me")
    assert claims_on(request.factors, "pesq_wb")["decoder4x"].high == 0.2
    assert (request.seeds, request.endpoint.metric) == ((2, 3), "stoi")
    assert request.set == {"recipe.learning_rate": 1e-4}
    assert request.data == str(tmp_path / "speech")
    assert len(request.grid.cells()) == 13


def test_test_corpora_of_a_study_file_are_one_or_several(tmp_path):
    path = tmp_path / "study.yaml"
    for text, places in (
        ("test_data: far", [tmp_path / "far"]),
        ("test_data: [speech, demo]", [tmp_path / "speech", "demo"]),
        ("seeds: 1", []),
    ):
        path.write_text(f"grid: bidirectional\n{text}\n")
        request = Study.model_validate(read_file(path))
        assert request.test_data == tuple(map(str, places))
    assert asked(path, test_data=["a", "b"]).test_data == ("a", "b")


def test_study_file_with_a_grid(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("grid: core=lstm,mamba,bidirectional\nseeds: 1\n")
    request = Study.model_validate(read_file(path))
    assert [list(f.levels) for f in request.factors] == [["lstm", "mamba"], ["off", "on"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a", "must be a mapping"),
        ("grid: bidirectional\nfactors: {}", "not both"),
        ("factors: {bidirectional: {level: [a]}}", "unknown keys"),
        ("factors: {wide: {levels: {off: {}}}}", "at least two levels"),
        ("factors: {bidirectonal: }", "did you mean 'bidirectional'"),
        ("set: {recipe.step: 4}", "did you mean"),
        ("grid: bidirectional\nat_lengths: [0.5]", "did you mean 'step_fractions'"),
        ("grid: bidirectional\nlauncher: inline", r"compute: \{launcher"),
        ("grid: bidirectional\nset: {recipe.judge_lag: 3}", "did you mean 'recipe.discriminator_lag'"),
        ("grd: bidirectional", r"unknown key 'grd'; did you mean 'grid'"),
        ("seeds: 2\ngrid: [bidirectional\n", r"study\.yaml, line 3, column 1: expected ',' or '\]'"),
        ("grid: a\ttrain: {command: python a.py {seed}}", r"study\.yaml, line 1, column"),
    ],
)
def test_bad_study_files(tmp_path, text, words):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_file(path)


@pytest.mark.parametrize(
    ("kind", "stored"), [("add-one", "one-in"), ("leave-one-out", "one-out"), ("full", "full")]
)
def test_a_design_is_stored_under_the_name_it_had_first(kind, stored):
    field = TypeAdapter(StoredKind)
    assert field.dump_python(kind) == stored
    assert field.validate_python(stored) == field.validate_python(kind) == kind


def test_tuning_of_whole_numbers_and_categories():
    space = {"recipe.batch_size": "2..8", "recipe.optimizer": "adam,adamw", "recipe.clip": "1..5"}
    tuning = Tuning(space=space, trials=16)
    assert tuning == Tuning.model_validate(tuning.model_dump(mode="json"))
    found = candidates(tuning)
    assert {point["recipe.batch_size"] for point in found} == set(range(2, 8 + 1))
    assert sum(point["recipe.optimizer"] == "adam" for point in found) == 8
    assert all(isinstance(point["recipe.clip"], float) for point in found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("recipe.optimizer=adam,sgd", "Input should be 'adam' or 'adamw'"),
        ("recipe.optimizer=1..2", "Input should be 'adam' or 'adamw'"),
        ("recipe.batch_size=1.5..3", "integer"),
        ("recipe.clip=5..1", r"5..1 is empty"),
        ("recipe.clip=-1..1", "greater than 0"),
        ("recipe.clip=a..b", r"write low..high"),
        ("recipe.steps=3", "or a,b"),
        ("model.core=lstm,mamba", "only recipe fields can be tuned"),
    ],
)
def test_a_space_that_no_training_could_use_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        Tuning(space=dict([text.split("=")]), trials=4)


def test_claims_of_the_command_line_beside_a_margin_of_the_file(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("endpoint: {metric: stoi, margin: 0.01}")
    request = asked(
        file,
        grid="bidirectional,core=lstm,gru,mamba",
        metric="stoi",
        claim=["bidirectional=0..0.02", "core=mamba=-0.01..0.01"],
    )
    assert (request.endpoint.metric, request.endpoint.margin) == ("stoi", 0.01)
    assert asked(file, grid="bidirectional", metric="pesq_wb").endpoint.margin != 0.01
    claims = claims_on(request.factors, "stoi")
    assert {name: (claim.low, claim.high) for name, claim in claims.items()} == {
        "bidirectional": (0, 0.02),
        "core=mamba": (-0.01, 0.01),
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"claim": ["core=0..1"]}, "needs a level of the"),
        ({"claim": ["core=gru=2..1"]}, "above"),
        ({"claim": ["crossband=0..1"]}, "no such factor"),
        ({"metric": "pesq"}, "unknown metric 'pesq'"),
    ],
)
def test_claims_that_cannot_be_judged_are_refused_before_training(options, words):
    with pytest.raises(ValueError, match=words):
        asked(None, grid="core=lstm,gru,mamba", **options)


@pytest.mark.parametrize("name", ["noise", "snr", "speaker", "baseline", "seed", "pesq_wb"])
def test_a_factor_whose_name_a_table_needs_is_refused_before_training(tmp_path, name):
    file = tmp_path / "study.yaml"
    levels = "{off: {model.channels: 32}, on: {model.channels: 64}}"
    file.write_text(f"factors: {{{name}: {{levels: {levels}}}}}")
    with pytest.raises(ValueError, match=name):
        asked(file).grid.cells()
