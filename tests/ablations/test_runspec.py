from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ablate.ablations.grid import Grid
from ablate.ablations.runspec import Data, RunSpec
from ablate.training.config import is_bookkeeping

DATA = Data(path="demo", name="demo", digest="d", test_digest="t")


def spec(changes=None, seed=1, data=DATA, **fields) -> RunSpec:
    cell = Grid.parse("bidirectional", changes=changes or {}).cells()[0]
    return RunSpec.of(cell, seed, data, **fields)


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
    ]
    assert len({v.training_signature for v in variants}) == len(variants)


@given(st.sampled_from(["accumulation", "checkpoint_every", "keep_every"]), st.integers(1, 9))
def test_bookkeeping_shares_the_training(field, value):
    assert is_bookkeeping(f"recipe.{field}")
    assert spec({f"recipe.{field}": value}).training_signature == spec().training_signature


def test_evaluation_and_test_data_change_only_the_evaluation_signature():
    plain = spec()
    for other in (
        spec({"evaluation.post_processing": "pcs"}),
        spec(data=DATA.model_copy(update={"test_digest": "u"})),
    ):
        assert other.training_signature == plain.training_signature
        assert other.evaluation_signature != plain.evaluation_signature
