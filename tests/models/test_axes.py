"""Fields that came with later publications, each against a restatement written here."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ablate.models import ModelConfig, build_model
from ablate.models.config import CORES
from ablate.models.declarations import looks_ahead
from ablate.models.enhancer import Enhancer
from ablate.models.hybrid import DualPathLayer, HybridLayer, time_layer
from ablate.models.interface import Interface
from ablate.models.layouts import BSRNN
from ablate.models.norms import BatchNorm
from ablate.models.summary import parameters, summarise
from ablate.models.xlstm import MLSTMBlock, parallel_mlstm

SMALL = {"channels": 16, "layers": 2, "crossband_layers": 1, "decoder_expansion": 2}


def features(time: int = 13) -> Tensor:
    return torch.randn(2, 5, time, 16, generator=torch.Generator().manual_seed(0))


def moved_before(layer: nn.Module, x: Tensor, frame: int) -> float:
    """How far frames up to and with `frame` move when later ones do."""
    other = x.clone()
    other[:, :, frame + 1 :] += 1
    layer.eval()
    with torch.no_grad():
        return float((layer(other) - layer(x))[:, :, : frame + 1].abs().max())


# ------------------------------------------------------------------------------------------ the transform


@pytest.mark.parametrize(("n_fft", "hop", "bins"), [(400, 100, 201), (320, 160, 161), (1024, 256, 513)])
def test_bands_counts_and_latency_follow_the_transform(n_fft: int, hop: int, bins: int) -> None:
    config = ModelConfig(**SMALL, n_fft=n_fft, hop=hop, bands="mel:20", head="mask")
    n, bands, e = 16, 20, 2
    split = 4 * bins + 2 * bins * n + bands * n
    trunk = 2 * (26 * n * n + 19 * n) + 52 * n * n + 35 * n
    decoder = bands * (2 * n + e * n * n + e * n) + 4 * bins * (e * n + 1)
    assert sum(config.band_widths) == bins
    assert parameters(config) == split + trunk + decoder
    still = {f"{part}_statistics": "cumulative" for part in ("split", "trunk", "decoder")}
    assert summarise(config.model_copy(update=still))["latency_ms"] == n_fft / 16


def test_the_bands_of_bsrnn_keep_their_frequencies() -> None:
    widths = ModelConfig(n_fft=1024, hop=256).band_widths
    edges, fine = (torch.tensor([0, *w]).cumsum(0) for w in (BSRNN, widths))
    assert len(widths) == len(BSRNN)
    assert (fine / 513 * 257 - edges).abs().max() <= 0.3


@pytest.mark.parametrize("window", ["hann", "sqrt-hann", "hamming", "rectangular"])
@pytest.mark.parametrize("projection", ["none", "consistent"])
def test_a_mask_of_one_gives_the_waveform_back(window: str, projection: str) -> None:
    config = ModelConfig(**SMALL, n_fft=320, hop=80, window=window, head="mask", projection=projection)
    network = build_model(config)
    network.head.forward = lambda features, noisy: noisy  # type: ignore[method-assign, union-attr]
    interface, waves = Interface.of(network), 0.1 * torch.randn(2, 4000)
    signal = interface.whole(waves)
    assert signal.shape == (2, 161, 51)
    expected = torch.stft(
        waves,
        320,
        80,
        window={
            "hann": torch.hann_window(320),
            "sqrt-hann": torch.hann_window(320).sqrt(),
            "hamming": torch.hamming_window(320),
            "rectangular": torch.ones(320),
        }[window],
        return_complex=True,
    )
    torch.testing.assert_close(signal, expected)
    torch.testing.assert_close(
        interface.utterance(interface(network, signal), 4000), waves, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("part", [{"head": head} for head in ("filter", "mask", "magnitude-phase")])
@pytest.mark.parametrize("decoder", ["per-band", "shared"])
def test_every_built_in_part_takes_another_transform(part: dict[str, str], decoder: str) -> None:
    for core in ("lstm", "mamba"):
        network = build_model(ModelConfig(**SMALL, n_fft=256, hop=64, core=core, decoder=decoder, **part))
        assert isinstance(network, Enhancer)
        interface = Interface.of(network)
        signal = interface.analyse(0.1 * torch.randn(1, 2000))
        assert interface(network, signal).shape == signal.shape == (1, 129, 32)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_fft": 401}, "an even number, e.g. 402"),
        ({"hop": 300}, "at most 256"),
        (
            {"n_fft": 400, "bands": (200, 57)},
            "cover 257 bins.*the spectrogram has 201; use n_fft=512 to have as many",
        ),
        ({"n_fft": 400, "bands": "uniform:300"}, "use 1 to 201 bands"),
        ({"n_fft": 32, "hop": 8}, "use 1 to 17 bands"),
        ({"norm": "batch", "trunk_statistics": "cumulative"}, "use norm=group"),
        ({"chunk": 8, "lookahead": 1}, "does not go with lookahead; use chunk=0"),
        ({"chunk": 8, "trunk_statistics": "cumulative"}, "use chunk=0"),
        ({"core": "lstm+gru+tcn"}, "a hybrid has two"),
        ({"core": "lstm+gruu"}, "gru"),
    ],
)
def test_what_cannot_be_is_refused_with_the_nearest_that_can(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ModelConfig(**SMALL | fields)


# ----------------------------------------------------------------------------------------------- the norm


def test_a_batch_norm_is_of_each_channel_over_batch_band_and_time_and_fixed_at_test_time() -> None:
    norm, x = BatchNorm(16), 3 + 2 * features()
    expected = (x - x.mean((0, 1, 2))) / (x.var((0, 1, 2), correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), expected)
    count = x[..., 0].numel()
    mean, variance = 0.1 * x.mean((0, 1, 2)), 0.9 + 0.1 * x.var((0, 1, 2), correction=0) * count / (count - 1)
    norm.eval()
    torch.testing.assert_close(norm(x[:1]), (x[:1] - mean) / (variance + 1e-5).sqrt())
    for core in ("lstm", "mamba", "attention", "xlstm"):
        layer = time_layer(ModelConfig(**SMALL, core=core, norm="batch"))
        assert moved_before(layer, features(), 6) == 0


# ---------------------------------------------------------------------------------- hybrids and dual paths


def test_a_hybrid_is_its_two_cores_in_order() -> None:
    config = ModelConfig(**SMALL, core="mamba+attention", lookahead=3)
    layer = time_layer(config)
    assert isinstance(layer, HybridLayer)
    assert [type(part) for part in layer] == [CORES["mamba"], CORES["attention"]]
    x = features()
    torch.testing.assert_close(layer(x), layer[1](layer[0](x)))
    assert layer.looks_ahead == 3
    assert moved_before(layer, x, 6) > 0
    assert parameters(config) - parameters(ModelConfig(**SMALL, core="mamba")) == sum(
        p.numel() for _ in range(2) for p in CORES["attention"](config).parameters()
    )
    assert config.is_active("heads")
    assert config.is_active("d_state")
    assert not ModelConfig(**SMALL, core="gru+lstm").is_active("heads")
    assert looks_ahead(time_layer(config.model_copy(update={"direction": "bi", "lookahead": 0})))


@pytest.mark.parametrize("direction", ["uni", "bi"])
def test_a_dual_path_runs_within_chunks_then_across_them(direction: str) -> None:
    layer = time_layer(ModelConfig(**SMALL, core="gru", norm="layer", chunk=4, direction=direction)).eval()
    assert isinstance(layer, DualPathLayer)
    x = features(time=10)
    rows = torch.cat([x, torch.zeros(2, 5, 2, 16)], dim=2)
    for start in range(0, 12, 4):
        rows[:, :, start : start + 4] = layer.within(rows[:, :, start : start + 4])
    for place in range(4):
        rows[:, :, place::4] = layer.across(rows[:, :, place::4])
    torch.testing.assert_close(layer(x), rows[:, :, :10])
    assert (moved_before(layer, x, 5) > 0) == (direction == "bi")


# ------------------------------------------------------------------------------------------------ the mLSTM


def recurrence(query: Tensor, key: Tensor, value: Tensor, gate: Tensor, forget: Tensor) -> Tensor:
    """The mLSTM step by step, stabilised as in the paper, with the public code's 1e-6; one row, one head."""
    time, width = query.shape
    memory, normaliser, largest = torch.zeros(width, width), torch.zeros(width), torch.tensor(-math.inf)
    memory, normaliser = memory.double(), normaliser.double()
    steps = []
    for t in range(time):
        now = torch.maximum(forget[t] + largest, gate[t])
        kept, taken = (forget[t] + largest - now).exp(), (gate[t] - now).exp()
        k = key[t] / width**0.5
        memory = kept * memory + taken * torch.outer(value[t], k)
        normaliser = kept * normaliser + taken * k
        largest = now
        size = torch.maximum((normaliser @ query[t]).abs(), (-largest).exp())
        steps.append(memory @ query[t] / (size + 1e-6))
    return torch.stack(steps)


@pytest.mark.parametrize("scale", [0.1, 5.0])
def test_the_parallel_form_is_the_recurrence(scale: float) -> None:
    random = torch.Generator().manual_seed(1)
    query, key, value = torch.randn(3, 2, 3, 70, 8, dtype=torch.float64, generator=random)
    gate, forget = scale * torch.randn(2, 2, 3, 70, dtype=torch.float64, generator=random)
    forget = nn.functional.logsigmoid(forget)
    found = parallel_mlstm(query, key, value, gate, forget)
    for row in range(2):
        for head in range(3):
            parts = (x[row, head] for x in (query, key, value, gate, forget))
            torch.testing.assert_close(found[row, head], recurrence(*parts), rtol=1e-4, atol=1e-6)


def test_gating_and_biases_of_the_block() -> None:
    with_biases, without = (
        MLSTMBlock(ModelConfig(**SMALL, core="xlstm", biases=b)) for b in ("with", "without")
    )
    inner, n = 16, 16
    assert sum(p.numel() for p in with_biases.parameters()) - sum(
        p.numel() for p in without.parameters()
    ) == (2 * inner + inner + n)
    gated = MLSTMBlock(ModelConfig(**SMALL, core="xlstm", gating="sigmoid"))
    gated.load_state_dict(with_biases.state_dict())
    assert not torch.allclose(gated(features()), with_biases(features()))
    assert moved_before(with_biases, features(), 6) < 1e-6


def test_the_width_of_an_mlstm_divides_into_heads() -> None:
    with pytest.raises(ValueError, match="a multiple of 5 heads and of 4"):
        build_model(ModelConfig(**SMALL, core="xlstm", heads=5))


@pytest.mark.parametrize(
    ("core", "channels", "nearest"),
    [
        ("attention", 50, "the nearest are 48 and 56"),
        ("conformer", 52, "the nearest are 48 and 56"),
        ("mamba2", 50, "the nearest are 48 and 52"),
        ("xlstm", 50, "the nearest are 48 and 52"),
        ("attention", 3, "the nearest is 8"),
    ],
)
def test_a_width_that_heads_do_not_divide_is_refused_with_the_nearest(core, channels, nearest):
    with pytest.raises(ValueError, match=nearest):
        build_model(ModelConfig(channels=channels, layers=1, crossband="none", core=core, heads=4))
