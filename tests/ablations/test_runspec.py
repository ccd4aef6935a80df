from __future__ import annotations

import json
import random
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.ablations.grid import Grid
from ablate.ablations.runspec import Data, RunSpec
from ablate.models import PRESETS
from ablate.models.errors import InputError
from ablate.training import config as training_config
from ablate.training.config import RECIPES, RunConfig, config_paths, field_marks, is_bookkeeping

DATA = Data(path="demo", name="demo", digest="d", test_digest="t")
STORED = json.loads((Path(__file__).parent / "signatures.json").read_text())
"""Signatures that an earlier commit gave; those of stored runs."""
PATHS = [path for path in config_paths() if not path.startswith("evaluation.")]


def spec(changes=None, seed=1, data=DATA, **fields) -> RunSpec:
    cell = Grid.parse("bidirectional", set=changes or {}).cells()[0]
    return RunSpec.of(cell, seed, data, **fields)


def of(config: RunConfig, **fields) -> RunSpec:
    return RunSpec(cell="base", config=config, seed=1, data=DATA, **fields)


def others(config: RunConfig, path: str) -> list[RunConfig]:
    """Configurations that differ in one field."""
    section, name = path.split(".")
    annotation = type(getattr(config, section)).model_fields[name].annotation
    known = [getattr(m, name) for m in PRESETS.values()] if section == "model" else []
    known += [getattr(r, name) for r in RECIPES.values()] if section == "recipe" else []
    found = []
    plain = (1, 2, 3, 1024, 0.25, "lstm", "shared", "mask", "mel:16", "another name", {"mine": 0.5})
    for value in (*known, *get_args(annotation), *plain):
        try:
            changed = config.with_changes({path: value})
        except InputError:
            continue
        if changed != config and changed not in found:
            found.append(changed)
    return found


configs = st.builds(
    lambda preset, recipe, core, crossband, decoder, weight, schedule: RunConfig.of(
        preset, recipe
    ).with_changes(
        {
            "model.core": core,
            "model.crossband": crossband,
            "model.decoder": decoder,
            "recipe.adversarial_weight": weight,
            "recipe.schedule": schedule,
        }
    ),
    st.sampled_from(sorted(PRESETS)),
    st.sampled_from(sorted(RECIPES)),
    st.sampled_from(["lstm", "gru", "mamba", "attention"]),
    st.sampled_from(["none", "pointwise", "bilstm", "bimamba"]),
    st.sampled_from(["per-band", "shared"]),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from(["step", "cosine"]),
)


def signatures(made: RunSpec) -> dict[str, str]:
    return {"training": made.training_signature, "evaluation": made.evaluation_signature}


@pytest.mark.parametrize("preset", PRESETS)
def test_signatures_stay_what_they_were(preset):
    for recipe in RECIPES:
        assert signatures(of(RunConfig.of(preset, recipe).with_changes({}))) == STORED[f"{preset} {recipe}"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("judge_lag", {"recipe.adversarial_weight": 1.0, "recipe.discriminator_lag": 2}),
        ("weight_decay", {"recipe.weight_decay": 0.01}),
    ],
)
def test_signatures_of_other_values_stay_what_they_were(name, changes):
    assert signatures(of(RunConfig.of("mbsnet", "reference").with_changes(changes))) == STORED[name]


def test_a_signature_with_start_weights_stays_what_it_was():
    made = of(RunConfig.of("mbsnet", "reference").with_changes({}), start_from={"path": "x", "digest": "w"})
    assert signatures(made.model_copy(update={"seed": 2})) == STORED["start"]


def test_signature_is_of_the_resolved_configuration():
    assert spec().training_signature == spec({"model.direction": "uni"}).training_signature


def test_what_changes_the_result_changes_the_signature():
    variants = [
        spec(),
        spec({"recipe.steps": 7}),
        spec({"model.channels": 48}),
        spec(seed=2),
        spec(data=DATA.model_copy(update={"digest": "e"})),
        spec(start_from={"path": "x", "digest": "w"}),
        spec(plugins={"p.py": "a"}),
        spec(plugins={"p.py": "b"}),
    ]
    assert len({v.training_signature for v in variants}) == len(variants)


def test_where_a_plugin_lies_changes_no_signature():
    here, there = (spec(plugins={path: "a"}).training_signature for path in ("p.py", "elsewhere/p.py"))
    assert here == there


@given(configs, st.sampled_from(PATHS))
@settings(max_examples=100, deadline=None)
def test_a_field_is_signed_where_it_is_read_and_changes_the_result(config, path):
    for other in others(config, path):
        counts = not is_bookkeeping(path) and (config.is_active(path) or other.is_active(path))
        assert (of(config).training_signature != of(other).training_signature) is counts
        assert of(config).evaluation_signature != of(other).evaluation_signature or not counts


def test_every_field_has_another_value_to_try():
    config = RunConfig.of("mbsnet").with_changes({})
    assert [path for path in PATHS if not others(config, path)] == []


@given(configs, st.randoms())
@settings(max_examples=20, deadline=None)
def test_the_order_of_keys_does_not_matter(config, order: random.Random):
    def shuffled(value):
        if not isinstance(value, dict):
            return value
        keys = list(value)
        order.shuffle(keys)
        return {key: shuffled(value[key]) for key in keys}

    again = RunConfig.model_validate(shuffled(config.model_dump(mode="json")))
    assert of(again).training_signature == of(config).training_signature


def test_evaluation_and_test_data_change_only_the_evaluation_signature():
    plain = spec()
    for other in (
        spec({"evaluation.post_processing": "pcs"}),
        spec(data=DATA.model_copy(update={"test_digest": "u"})),
    ):
        assert other.training_signature == plain.training_signature
        assert other.evaluation_signature != plain.evaluation_signature


def test_an_older_results_version_is_told_from_another_run(monkeypatch):
    old, other = spec(), spec(seed=2)
    was = old.training_signature
    assert old.results_version(was) == training_config.RESULTS_VERSION
    assert other.results_version(was) is None
    monkeypatch.setattr(training_config, "RESULTS_VERSION", training_config.RESULTS_VERSION + 1)
    assert old.training_signature != was
    assert old.results_version(was) == training_config.RESULTS_VERSION - 1
    assert other.results_version(was) is None


def test_a_run_of_version_1_with_weight_decay_has_other_results():
    decayed = spec({"recipe.weight_decay": 0.01})
    first = decayed._signature(1)
    assert first != decayed.training_signature
    assert decayed.results_version(first) == 1 < decayed.config.results_version
    assert spec().config.results_version == training_config.RESULTS_VERSION


def test_fields_that_decide_exist():
    for path in config_paths():
        section = path.split(".")[0]
        for condition in field_marks(path).conditions:
            assert f"{section}.{condition.field}" in config_paths()
