from __future__ import annotations

from typing import Annotated

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.models import ModelConfig, build_model
from ablate.models.config import CORES, Section
from ablate.models.errors import InputError
from ablate.models.fields import (
    ActiveIf,
    ActiveUnless,
    Added,
    Affects,
    Bookkeeping,
    InactiveValue,
    marks_of,
    split_settings,
)


class Before(Section):
    kind: str = "a"
    size: Annotated[int, ActiveIf("kind", "a"), Affects("encoder")] = 3


class After(Before):
    smooth: Annotated[float, Added] = 0.0
    start: Annotated[float, Added, ActiveUnless("smooth", 0.0)] = 0.5
    note: Annotated[str, Added, Bookkeeping] = ""


@given(st.sampled_from("ab"), st.integers(1, 9), st.floats(0, 1), st.text())
def test_a_neutral_new_field_is_not_signed(kind, size, start, note):
    old, new = Before(kind=kind, size=size), After(kind=kind, size=size, start=start, note=note)
    assert new.signed_fields() == old.signed_fields()
    assert After.model_validate(old.model_dump()).signed_fields() == old.signed_fields()
    smooth = new.model_copy(update={"smooth": 0.5})
    assert smooth.signed_fields().keys() - old.signed_fields().keys() >= {"smooth"}
    assert ("start" in smooth.signed_fields()) is (start != 0.5)


def test_a_field_that_is_not_read_is_signed_as_its_default():
    assert Before(kind="b", size=7).signed_fields() == {"kind": "b", "size": 3}
    assert Before(kind="a", size=7).signed_fields() == {"kind": "a", "size": 7}


def test_another_value_may_stand_for_a_field_that_is_not_read():
    assert marks_of(ModelConfig, "decoder_expansion").inactive == 2.0
    assert marks_of(ModelConfig, "decoder_expansion").default == 4.0
    assert InactiveValue(1) in ModelConfig.model_fields["crossband_layers"].metadata


def test_a_part_of_a_plugin_may_read_any_field():
    CORES.register("reads-all-for-test", object)
    assert not ModelConfig(core="lstm").is_active("d_state")
    assert ModelConfig(core="reads-all-for-test").is_active("d_state")


UNREAD = {
    "heads": 2,
    "d_state": 5,
    "expand": 2,
    "d_conv": 2,
    "ssm_skip": "shadowed",
    "dt_init": "wiped",
    "clamps": "on",
    "crossband_layers": 3,
    "order": "interleaved",
    "decoder_expansion": 3.0,
    "kernel": 5,
    "dilations": 2,
    "trunk_statistics": "cumulative",
    "decoder_statistics": "cumulative",
    "filter_taps": "past",
    "lookahead": 3,
    "gating": "sigmoid",
    "biases": "without",
}


def test_every_conditional_field_is_tried():
    assert set(UNREAD) == {
        name for name in ModelConfig.model_fields if marks_of(ModelConfig, name).conditions
    }


@given(
    st.sampled_from(
        ["lstm", "gru", "mamba", "attention", "mamba2", "tcn", "conformer", "xlstm", "mamba+attention"]
    ),
    st.sampled_from(["uni", "bi"]),
    st.sampled_from(["group", "layer", "batch"]),
    st.sampled_from(["none", "pointwise", "bilstm", "bimamba"]),
    st.sampled_from(["per-band", "shared"]),
    st.sampled_from(["filter", "mask"]),
    st.sampled_from(sorted(UNREAD)),
)
@settings(max_examples=60, deadline=None)
def test_a_network_reads_what_its_fields_say(core, direction, norm, crossband, decoder, head, name):
    parts = {
        "core": core,
        "direction": direction,
        "norm": norm,
        "crossband": crossband,
        "decoder": decoder,
        "head": head,
    }
    config = ModelConfig(channels=16, layers=2, crossband_layers=2, **parts)
    other = config.model_copy(update={name: UNREAD[name]})
    x = torch.randn(1, 257, 12, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    outputs = []
    for c in (config, other):
        torch.manual_seed(0)
        with torch.no_grad():
            outputs.append(build_model(c)(100 * x))
    assert torch.equal(*outputs) is not config.is_active(name)


def test_options_are_read_by_parts_of_plug_ins_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from ablate.models import CORES, ModelConfig

    plain = ModelConfig(options={"kernel": 3})
    assert not plain.is_active("options")
    assert plain.signed_fields() == ModelConfig().signed_fields()
    monkeypatch.setitem(CORES._parts, "mine", object)
    mine = ModelConfig(core="mine", options={"kernel": 3})
    assert mine.signed_fields()["options"] == {"kernel": 3}
    assert "options" not in ModelConfig(core="mine").signed_fields()
    assert hash(mine) == hash(ModelConfig(core="mine", options={"kernel": 3}))


def test_settings_are_split_at_the_first_equals_sign() -> None:
    items = ["setup=module load x", "setup=export A=1", "time="]
    expected = [("setup", "module load x"), ("setup", "export A=1"), ("time", "")]
    assert split_settings(items, "time=60", repeated=("setup",)) == expected


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (["time"], "SLURM setting 'time' is not valid; write name=value, e.g. time=60"),
        (["=60"], "SLURM setting '=60' is not valid; write name=value"),
        (["time=60", "time=70"], "SLURM setting 'time' is given twice"),
    ],
)
def test_what_is_no_setting_is_said(items: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        split_settings(items, "time=60", "SLURM setting")
