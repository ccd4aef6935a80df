import math

import pytest
import torch

from ablate.models import PRESETS, ModelConfig, build_model
from ablate.models.declarations import initial_ranges, looks_ahead, note, record

pytestmark = pytest.mark.numerics


def config(**changes: object) -> ModelConfig:
    base = PRESETS["mbsnet"].model_copy(update={"channels": 16, "layers": 1})
    return base.model_copy(update=changes)


def spectrogram() -> torch.Tensor:
    return torch.randn(1, 257, 24, dtype=torch.complex64)


def test_a_part_that_says_nothing_claims_nothing() -> None:
    part = torch.nn.Linear(2, 2)
    assert not looks_ahead(part)
    assert initial_ranges(part) == {}


@pytest.mark.parametrize("core", ["lstm", "gru", "mamba", "attention"])
@pytest.mark.parametrize("direction", ["uni", "bi"])
def test_time_layers_look_ahead_as_they_say(core: str, direction: str) -> None:
    torch.manual_seed(0)
    layer = build_model(config(core=core, direction=direction, norm="layer")).time_layers[0]
    x = torch.randn(2, 3, 6, 16, requires_grad=True)
    layer(x)[:, :, 2].sum().backward()
    assert x.grad is not None
    assert bool(x.grad[:, :, 3:].any()) == looks_ahead(layer) == (direction == "bi")
    assert x.grad[:, :, :2].any()


@pytest.mark.parametrize("crossband", ["none", "pointwise", "bilstm", "bimamba"])
def test_cross_band_modules_mix_bands_as_they_say(crossband: str) -> None:
    torch.manual_seed(0)
    layer = build_model(config(crossband=crossband)).band_layers[0]
    if crossband == "bilstm":
        layer.norm = torch.nn.Identity()
    x = torch.randn(1, 31, 2, 16, requires_grad=True)
    layer(x)[:, 4].sum().backward()
    assert x.grad is not None
    others = torch.cat([x.grad[:, :4], x.grad[:, 5:]], dim=1)
    assert bool(others.any()) == layer.mixes_bands == (crossband in ("bilstm", "bimamba"))


def inside(model: torch.nn.Module) -> bool:
    ranges = initial_ranges(model)
    assert len(ranges) == 1
    return all(
        bool((values >= low * 0.999).all() and (values <= high * 1.001).all())
        for values, (low, high) in ranges.values()
    )


def test_step_sizes_start_in_their_range_unless_wiped() -> None:
    assert inside(build_model(config()))
    wiped = build_model(config(dt_init="wiped"))
    assert not inside(wiped)
    values, _ = initial_ranges(wiped)["time_layers.0.mamba.ssm.dt"]
    assert torch.allclose(values, torch.full_like(values, math.log(2)))


def test_a_range_for_nothing_is_an_error() -> None:
    class Wrong(torch.nn.Module):
        def init_ranges(self) -> dict[str, tuple[float, float]]:
            return {"gain": (0, 1)}

    with pytest.raises(ValueError, match="Wrong declares a range for 'gain'"):
        initial_ranges(Wrong())


def test_shadowed_skip_drowns_the_state_term() -> None:
    """The figures of the trained code: state 0.149, skip 37.8, 12 to 14 % of outputs on the bound."""
    torch.manual_seed(0)
    with torch.no_grad():
        trained = build_model(PRESETS["mbsnet-as-trained"].model_copy(update={"layers": 1}))
        with record(trained) as faulty:
            trained(spectrogram())
        sound = build_model(PRESETS["mbsnet"].model_copy(update={"layers": 1}))
        with record(sound) as right:
            sound(spectrogram())
    assert 20 < float(faulty["skip"][0].std()) < 60
    assert 0.05 < float(faulty["state"][0].std()) < 0.4
    assert 0.08 < float(faulty["clamp_output"][0]) < 0.2
    assert float(right["skip"][0].std()) < 1
    assert "clamp_output" not in right


def test_recording_takes_the_module_asked_for_and_ends() -> None:
    model = build_model(config(layers=2))
    with record(model.time_layers[1]) as recording, torch.no_grad():
        model(spectrogram())
    assert [len(values) for values in recording.values()] == [1, 1]
    note(model.time_layers[1], "late", torch.zeros(1))
    assert "late" not in recording


def test_recorded_terms_are_those_of_the_scan() -> None:
    torch.manual_seed(0)
    ssm = build_model(config()).time_layers[0].mamba.ssm
    x, z = torch.randn(2, 9, 16), torch.randn(2, 9, 16)
    with record(ssm) as recording, torch.no_grad():
        y = ssm(x, z)
    expected = (recording["state"][0] + recording["skip"][0]) * torch.nn.functional.silu(z)
    assert torch.allclose(y, expected, atol=1e-5)
