from types import ModuleType

import pytest
import torch
from torch import Tensor

from ablate.models import PRESETS, ModelConfig, build_model, reference
from ablate.models.declarations import record

pytestmark = pytest.mark.numerics

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def relative(ours: Tensor, theirs: Tensor) -> float:
    ours, theirs = ours.detach(), theirs.detach()
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30))


def shapes(plain: ModuleType, kind: str) -> dict[str, tuple[int, ...]]:
    return {
        "bsrnn": lambda: plain.bsrnn_shapes(8, 2),
        "bsrnn-bi": lambda: plain.bsrnn_shapes(8, 1, expansion=2, both=True),
        "mbsnet": lambda: plain.mbsnet_shapes(16, 2),
        "mbsnet-wide": lambda: plain.mbsnet_shapes(8, 1, states=5, expand=2, expansion=3),
    }[kind]()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", ["bsrnn", "bsrnn-bi", "mbsnet", "mbsnet-wide"])
def test_outputs_and_gradients_agree(plain: ModuleType, kind: str, dtype: torch.dtype) -> None:
    weights = plain.random_weights(shapes(plain, kind), seed=1, dtype=dtype)
    theirs = {key: value.clone().requires_grad_() for key, value in weights.items()}
    real = torch.randn(2, 257, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).to(
        dtype
    )
    x = torch.view_as_complex(real)
    expected = (plain.bsrnn if kind.startswith("bsrnn") else plain.mbsnet)(theirs, x)

    config, ours = reference.load(weights)
    model = build_model(config).to(dtype)
    model.load_state_dict(ours)
    out = model(x)
    assert relative(torch.view_as_real(out), torch.view_as_real(expected)) < TOLERANCE[dtype]

    probe = torch.view_as_complex(torch.randn(*out.shape, 2, dtype=dtype))
    (out * probe).real.sum().backward()
    (expected * probe).real.sum().backward()
    zeros = {
        key: torch.zeros_like(value) if value.grad is None else value.grad for key, value in theirs.items()
    }
    _, gradients = reference.load(zeros)
    for path, parameter in model.named_parameters():
        if parameter.grad is None:
            assert path.endswith("ssm.D")
            assert not gradients[path].any()
        else:
            assert relative(parameter.grad, gradients[path]) < TOLERANCE[dtype], path


def test_clamps_are_reached_in_the_comparison(plain: ModuleType) -> None:
    """The agreement above says nothing of the output clamp unless values lie on both sides of it."""
    weights = plain.random_weights(plain.mbsnet_shapes(16, 2), seed=1, dtype=torch.float64)
    config, ours = reference.load(weights)
    model = build_model(config).double()
    model.load_state_dict(ours)
    with record(model) as recording:
        model(torch.randn(2, 257, 7, dtype=torch.complex128))
    assert 0.01 < float(recording["clamp_output"][0]) < 0.99


def test_configuration_is_read_off_the_shapes(plain: ModuleType) -> None:
    def config(shapes: dict[str, tuple[int, ...]]) -> ModelConfig:
        return reference.load({key: torch.zeros(shape) for key, shape in shapes.items()})[0]

    assert config(plain.bsrnn_shapes(64, 5)) == PRESETS["bsrnn"]
    assert config(plain.bsrnn_shapes(64, 5, both=True)) == PRESETS["bsrnn-bidirectional"]
    assert config(plain.mbsnet_shapes(128, 4)) == PRESETS["mbsnet-as-trained"]
    other = config(plain.mbsnet_shapes(32, 3, states=7, expand=2, expansion=4))
    assert (other.channels, other.layers, other.d_state, other.expand) == (32, 3, 7, 2)
    assert other.decoder_expansion == 4


def test_prefix_of_data_parallel_training_is_dropped(plain: ModuleType) -> None:
    weights = plain.random_weights(plain.mbsnet_shapes(8, 1), seed=0, dtype=torch.float32)
    assert reference.load({f"module.{key}": value for key, value in weights.items()})[0].channels == 8


@pytest.mark.parametrize("kind", ["bsrnn", "mbsnet"])
@pytest.mark.parametrize(
    "key", ["mask_decoder.fc231.bias", "band_split.fc7.weight", "mask_decoder.fc111.weight"]
)
def test_missing_key_is_named(plain: ModuleType, kind: str, key: str) -> None:
    weights = plain.random_weights(shapes(plain, kind), seed=0, dtype=torch.float32)
    del weights[key]
    with pytest.raises(ValueError, match=f"missing keys: {key}"):
        reference.load(weights)


def test_unexpected_key_is_named(plain: ModuleType) -> None:
    weights = plain.random_weights(plain.bsrnn_shapes(8, 1), seed=0, dtype=torch.float32)
    weights["lstm_t3.weight_ih_l0"] = torch.zeros(64, 8)
    with pytest.raises(ValueError, match=r"unexpected keys: lstm_t3\.weight_ih_l0"):
        reference.load(weights)


def test_wrong_shape_is_named(plain: ModuleType) -> None:
    weights = plain.random_weights(plain.mbsnet_shapes(8, 1), seed=0, dtype=torch.float32)
    weights["encoder.mamba_layers.0.ssm.D"] = torch.zeros(9)
    with pytest.raises(ValueError, match=r"ssm\.D is \(9,\) instead of \(8,\)"):
        reference.load(weights)


def test_foreign_state_dict_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not a state dict of BSRNN.*conv\.weight"):
        reference.load({"conv.weight": torch.zeros(1)})
