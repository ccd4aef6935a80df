import pytest
import torch
from torch import Tensor, nn

from ablate.models import ARCHITECTURES, PRESETS, ModelConfig, build_model
from ablate.models.config import CORES
from ablate.models.summary import macs_per_second, parameters, parameters_by_part, receptive_field, summarise


@pytest.mark.parametrize("name", PRESETS)
def test_parts_add_up(name: str) -> None:
    with torch.device("meta"):
        model = build_model(name)
    parts = parameters_by_part(model)
    assert set(parts) == {"split", "encoder", "cross-band", "decoder"}
    assert sum(parts.values()) == sum(p.numel() for p in model.parameters())


def test_parts_of_the_baseline() -> None:
    with torch.device("meta"):
        parts = parameters_by_part(build_model("bsrnn"))
    assert parts["split"] == 35_908
    assert parts["encoder"] + parts["cross-band"] == 1_614_720
    assert parts["decoder"] == 1_312_396


def test_macs_of_a_recurrent_network_by_hand() -> None:
    n, e, frames, bands, bins = 16, 2, 125, 31, 257
    time_layer = bands * (4 * 2 * n * (n + 2 * n) + 2 * n * n)
    band_layer = bands * (2 * 4 * 2 * n * (n + 2 * n) + 4 * n * n)
    decoder = bands * e * n * n + 12 * bins * e * n
    expected = frames * (2 * bins * n + 2 * time_layer + 3 * band_layer + decoder)
    config = ModelConfig(channels=n, layers=2, crossband_layers=3, decoder_expansion=e)
    assert macs_per_second(config) == expected


def test_macs_of_a_mamba_layer_by_hand() -> None:
    n, states, frames, bands = 32, 6, 125, 31

    def cost(layers: int) -> float:
        return macs_per_second(
            ModelConfig(channels=n, layers=layers, core="mamba", norm="layer", d_state=states)
        )

    rank = 2
    products = 2 * n * n + 4 * n + n * (rank + 2 * states) + rank * n + n * n
    assert cost(2) - cost(1) == frames * bands * (products + n * (3 * states + 1))


@pytest.mark.parametrize(
    ("config", "words", "causal"),
    [
        ("bsrnn", "unbounded (recurrent)", True),
        ("bsrnn-bidirectional", "unbounded (recurrent)", False),
        ("mbsnet-recovered", "unbounded (recurrent)", False),
        ("mbsnet-dual-branch", "unbounded (recurrent)", False),
        (ModelConfig(channels=16, layers=1, core="attention", heads=2), "unbounded (attention)", True),
    ],
    ids=str,
)
def test_reach(config: str | ModelConfig, words: str, causal: bool) -> None:
    found = summarise(config)
    assert found["receptive_field"] == words
    assert found["receptive_field_frames"] is None
    assert found["causal"] is causal
    assert found["normalisation_sees_future"] is True


def test_look_ahead_is_the_filters_third_tap() -> None:
    assert summarise(ModelConfig(channels=16, layers=1))["look_ahead_frames"] == 1
    assert summarise(ModelConfig(channels=16, layers=1, head="mask"))["look_ahead_frames"] == 0


def test_a_finite_reach_is_counted_and_a_silent_part_is_not_guessed() -> None:
    class Blur(torch.nn.Module):
        reach = 5

        def __init__(self, config: ModelConfig) -> None:
            super().__init__()

    class Silent(torch.nn.Module):
        def __init__(self, config: ModelConfig) -> None:
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(1))

    CORES.register("blur-for-test", Blur)
    CORES.register("silent-for-test", Silent)
    blurred = ModelConfig(channels=8, layers=3, core="blur-for-test", crossband="none")
    assert receptive_field(build_model(blurred)) == 1 + 3 * 4 + 2
    assert receptive_field(build_model(blurred.model_copy(update={"core": "silent-for-test"}))) is None


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_counted_without_weights(name: str) -> None:
    assert parameters(PRESETS[name]) == sum(p.numel() for p in build_model(name).parameters())


def test_a_plugin_that_needs_its_weights_is_counted_too() -> None:
    class Scaled(torch.nn.Module):
        def __init__(self, config: ModelConfig) -> None:
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(3))
            self.size = self.gain.sum().item()

    CORES.register("scaled-for-test", Scaled)
    config = ModelConfig(channels=8, layers=2, core="scaled-for-test", crossband="none")
    assert parameters(config) == sum(p.numel() for p in build_model(config).parameters())


class Taps(nn.Conv1d):
    reach, looks_ahead = 9, False


class At48k(nn.Module):
    domain, axes, sample_rate = "waveform", "b1t", 48_000

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.taps = Taps(1, 1, 9)

    def parts(self) -> dict[str, list[nn.Module]]:
        return {"encoder": [self.taps]}

    def forward(self, waves: Tensor) -> Tensor:
        return self.taps(nn.functional.pad(waves, (8, 0)))


def test_a_receptive_field_in_seconds_is_at_the_rate_of_the_network() -> None:
    ARCHITECTURES.register("at-48k", At48k)
    found = summarise(ModelConfig(architecture="at-48k"))
    assert found["receptive_field_frames"] == 9
    assert found["receptive_field_seconds"] == pytest.approx(9 / 48_000)
    assert found["latency_ms"] == pytest.approx(1 / 48)
