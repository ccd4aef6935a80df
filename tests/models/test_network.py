from typing import Any

import pytest
import torch

from ablate.models import PRESETS, ModelConfig, build_model
from ablate.models.layouts import BSRNN

pytestmark = pytest.mark.numerics

BUILT_IN = set(PRESETS)
"""As they are before any test imports a plug-in."""

COUNTS = {
    "bsrnn": 2_963_024,
    "bsrnn-128x6": 11_417_488,
    "bsrnn-bidirectional": 3_500_624,
    "mbsnet": 2_139_920,
    "mbsnet-as-trained": 2_139_920,
    "mbsnet-heavy-decoder": 3_953_168,
    "mbsnet-ultralight-decoder": 341_031,
    "mbsnet-dual-branch": 7_325_830,
    "mbsnet-dual-head": 2_306_822,
    "mbsnet-recovered": 5_153_040,
}

# (direction, cross-band module, its layers) -> parameters with the 2x and with the 4x decoder
TOGGLES = {
    ("uni", "none", 1): (2_122_896, 3_936_144),
    ("uni", "pointwise", 1): (2_139_920, 3_953_168),
    ("bi", "none", 1): (2_483_344, 4_296_592),
    ("uni", "bimamba", 4): (2_711_184, 4_524_432),
    ("bi", "bimamba", 4): (3_071_632, 4_884_880),
    ("bi", "pointwise", 1): (2_500_368, 4_313_616),
    ("uni", "bilstm", 1): (2_979_344, 4_792_592),
    ("bi", "bilstm", 1): (3_339_792, 5_153_040),
}


def parameters(config: str | ModelConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(config).parameters())


def spectrogram(batch: int = 2, frames: int = 9) -> torch.Tensor:
    return torch.randn(batch, 257, frames, dtype=torch.complex64)


def small(**changes: Any) -> ModelConfig:
    base: dict[str, Any] = {"channels": 16, "layers": 2, "crossband_layers": 2, "decoder_expansion": 2}
    return ModelConfig(**{**base, **changes})


def test_every_preset_has_a_known_size() -> None:
    assert set(COUNTS) == BUILT_IN


@pytest.mark.parametrize("name", COUNTS)
def test_preset_size(name: str) -> None:
    assert parameters(name) == COUNTS[name]


@pytest.mark.parametrize("toggles", TOGGLES, ids=str)
@pytest.mark.parametrize("heavy", [False, True])
def test_toggle_table(toggles: tuple[str, str, int], heavy: bool) -> None:
    direction, crossband, layers = toggles
    changes = {
        "direction": direction,
        "crossband": crossband,
        "crossband_layers": layers,
        "decoder_expansion": 4 if heavy else 2,
    }
    assert parameters(PRESETS["mbsnet"].model_copy(update=changes)) == TOGGLES[toggles][heavy]


@pytest.mark.parametrize(
    ("channels", "layers", "count"),
    [(128, 5, 10_132_624), (64, 6, 3_285_968), (64, 4, 2_640_080), (64, 3, 2_317_136)],
)
def test_size_of_other_widths_and_depths(channels: int, layers: int, count: int) -> None:
    assert parameters(ModelConfig(channels=channels, layers=layers, crossband_layers=layers)) == count


@pytest.mark.parametrize("name", PRESETS)
def test_preset_runs_forward_and_backward(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(PRESETS[name].model_copy(update={"channels": 16, "layers": 2}))
    out = model(spectrogram())
    assert out.shape == (2, 257, 9)
    assert out.dtype == torch.complex64
    out.abs().sum().backward()
    without = {path for path, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    dead = {path for path in without if path.endswith("ssm.D")} if name == "mbsnet-as-trained" else set()
    assert without == dead
    assert name != "mbsnet-as-trained" or len(dead) == 2


AXES: list[dict[str, Any]] = [
    *(
        {"core": core, "direction": d}
        for core in ("lstm", "gru", "mamba", "attention")
        for d in ("uni", "bi")
    ),
    *({"head": head} for head in ("filter", "mask", "magnitude-phase", "magnitude-only")),
    *({"crossband": module} for module in ("none", "pointwise", "bilstm", "bimamba")),
    {"norm": "layer"},
    {"norm": "group", "core": "mamba", "direction": "bi"},
    {"order": "interleaved"},
    {"decoder": "shared"},
    {"decoder": "shared", "head": "magnitude-phase"},
    {"decoder_expansion": tuple(1 + i % 3 for i in range(31))},
    {
        "core": "mamba",
        "d_state": 3,
        "expand": 2,
        "d_conv": 2,
        "ssm_skip": "shadowed",
        "dt_init": "wiped",
        "clamps": "on",
    },
]


@pytest.mark.parametrize("axes", AXES, ids=str)
def test_every_axis_runs_forward_and_backward(axes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = build_model(small(**axes))
    out = model(spectrogram())
    assert out.shape == (2, 257, 9)
    out.abs().sum().backward()
    gradients = [p.grad for path, p in model.named_parameters() if not path.endswith("ssm.D")]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def test_expansion_per_band_sets_each_bands_width() -> None:
    each = tuple(1 + i % 3 for i in range(31))
    n = 16
    expected = sum(
        2 * n + e * n * n + e * n + 12 * width * (e * n + 1) for e, width in zip(each, BSRNN, strict=True)
    )
    model = build_model(small(decoder_expansion=each))
    assert sum(p.numel() for p in model.head.parameters()) == expected


def test_interleaved_order_takes_layers_in_turn() -> None:
    model = build_model(small(order="interleaved"))
    layers = [*model.time_layers, *model.band_layers]
    assert list(model.trunk()) == [layers[0], layers[2], layers[1], layers[3]]


def test_equal_seed_equal_network() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in build_model(small(core="mamba")).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    "wrong", [torch.zeros(1, 256, 4, dtype=torch.complex64), torch.zeros(1, 257, 4), torch.zeros(257, 4) * 1j]
)
def test_wrong_input_is_refused_with_its_shape(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"257.*got \("):
        build_model(small())(wrong)


def test_dual_branch_names_what_it_cannot_take() -> None:
    config = PRESETS["mbsnet-dual-branch"].model_copy(update={"core": "lstm"})
    with pytest.raises(ValueError, match=r"core='lstm'.*has 'mamba'"):
        build_model(config)


def test_dual_branch_refuses_a_look_ahead_that_it_would_read() -> None:
    one_way = PRESETS["mbsnet-dual-branch"].model_copy(
        update={"channels": 16, "lookahead": 2, "direction": "uni"}
    )
    with pytest.raises(ValueError, match=r"lookahead=2 .*has 0"):
        build_model(one_way)
    build_model(one_way.model_copy(update={"direction": "bi"}))


def test_plugin_core_needs_only_the_interface() -> None:
    from ablate.models.config import CORES

    class Plain(torch.nn.Module):
        def __init__(self, config: ModelConfig) -> None:
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(config.channels))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.gain

    CORES.register("plain-for-test", Plain)
    model = build_model(small(core="plain-for-test", order="interleaved"))
    assert model(spectrogram()).shape == (2, 257, 9)


@pytest.mark.parametrize("name", ["bsrnn", "mbsnet", "mbsnet-dual-head"])
def test_bfloat16_autocast_stays_near_single_precision(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(PRESETS[name].model_copy(update={"channels": 16, "layers": 1, "crossband_layers": 1}))
    noisy = spectrogram()
    expected = model(noisy)
    expected.abs().sum().backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(noisy)
    assert out.dtype == torch.complex64
    assert float((out - expected).detach().abs().max() / expected.detach().abs().max()) < 0.05
    out.abs().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    rounded = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert torch.cosine_similarity(rounded, gradients, dim=0) > 0.999
