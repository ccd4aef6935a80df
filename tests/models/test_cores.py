"""The cores that later questions brought, each against an independent restatement."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ablate.models import ModelConfig, build_model
from ablate.models.conformer import ConformerLayer
from ablate.models.declarations import frames_ahead, looks_ahead, reach
from ablate.models.mamba2 import Mamba2Block, state_space_dual
from ablate.models.tcn import DepthwiseConvolution, TCNLayer

pytestmark = pytest.mark.numerics


def recurrence(x: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The scan of Mamba-2 one frame after another."""
    rows, time, heads, channels = x.shape
    state = x.new_zeros(rows, heads, b.shape[-1], channels)
    frames = []
    for t in range(time):
        written = b[:, t, None, :, None] * x[:, t, :, None, :]
        state = decay[:, t].exp()[..., None, None] * state + written
        frames.append((c[:, t, None, :, None] * state).sum(2))
    return torch.stack(frames, 1)


@pytest.mark.parametrize(("time", "chunk"), [(1, 4), (7, 4), (8, 4), (50, 16), (13, 64)])
def test_the_chunked_scan_is_the_recurrence(time: int, chunk: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, time, 3, 5, dtype=torch.float64, requires_grad=True)
    decay = (-torch.rand(2, time, 3, dtype=torch.float64)).requires_grad_()
    b, c = (torch.randn(2, time, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    inputs = (x, decay, b, c)
    fast, plain = state_space_dual(*inputs, chunk=chunk), recurrence(*inputs)
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-12)
    weight = torch.randn_like(plain)
    for ours, oracle in zip(
        torch.autograd.grad((fast * weight).sum(), inputs),
        torch.autograd.grad((plain * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, oracle, rtol=1e-9, atol=1e-11)


def test_a_state_that_is_lost_at_once_gives_finite_gradients() -> None:
    x, b, c = torch.randn(1, 70, 1, 2), torch.randn(1, 70, 3), torch.randn(1, 70, 3)
    decay = torch.full((1, 70, 1), -60.0, requires_grad=True)
    state_space_dual(x, decay, b, c).sum().backward()
    assert decay.grad is not None
    assert decay.grad.isfinite().all()


def test_a_mamba2_block_is_its_description() -> None:
    torch.manual_seed(0)
    config = ModelConfig(core="mamba2", channels=8, heads=2, d_state=3, expand=2, norm="layer")
    block = Mamba2Block(config).double()
    x = torch.randn(1, 2, 11, 8, dtype=torch.float64)
    row = F.layer_norm(x, (8,), block.norm.weight, block.norm.bias)[0, 1]
    z, main, b, c, step = (row @ block.in_proj.weight.T).split([16, 16, 3, 3, 2], dim=-1)
    mixed = torch.cat([main, b, c], dim=-1)
    convolved = torch.stack(
        [
            block.conv.bias
            + sum(block.conv.weight[:, 0, k] * mixed[t - 3 + k] for k in range(4) if t - 3 + k >= 0)
            for t in range(11)
        ]
    )
    main, b, c = F.silu(convolved).split([16, 3, 3], dim=-1)
    dt, rate = F.softplus(step + block.dt_bias), -block.A_log.exp()
    heads = main.view(1, 11, 2, 8)
    y = recurrence(heads * dt[None, ..., None], (dt * rate)[None], b[None], c[None])
    y = (y + block.D[:, None] * heads).flatten(-2)[0] * F.silu(z)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * block.gated_norm.weight
    torch.testing.assert_close(block(x)[0, 1], x[0, 1] + y @ block.out_proj.weight.T)


def test_steps_of_mamba2_start_in_their_range() -> None:
    block = Mamba2Block(ModelConfig(core="mamba2", channels=64, heads=64))
    low, high = block.init_ranges()["dt"]
    dt = block.init_values()["dt"]
    assert low * 0.999 <= dt.min() < dt.max() <= high * 1.001


@pytest.mark.parametrize(("dilation", "ahead"), [(1, 0), (2, 0), (2, 2), (4, 4)])
def test_a_depthwise_convolution_is_a_sum_over_taps(dilation: int, ahead: int) -> None:
    torch.manual_seed(0)
    layer = DepthwiseConvolution(2, 3, dilation, ahead)
    x = torch.randn(1, 12, 2)
    expected = torch.zeros_like(x)
    for t in range(12):
        for tap in range(3):
            source = t + ahead - (2 - tap) * dilation
            if 0 <= source < 12:
                expected[0, t] += layer.conv.weight[:, 0, tap] * x[0, source]
        expected[0, t] += layer.conv.bias
    torch.testing.assert_close(layer(x), expected)


def frames_seen(layer: torch.nn.Module, frame: int, frames: int, channels: int = 8) -> list[int]:
    """The input frames on which one output frame depends."""
    x = torch.randn(1, 1, frames, channels, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer.double()(x)[0, 0, frame].square().sum(), x)
    return gradient[0, 0].abs().sum(-1).nonzero().flatten().tolist()


@pytest.mark.parametrize("direction", ["uni", "bi"])
def test_a_tcn_reaches_as_far_as_it_says(direction: str) -> None:
    config = ModelConfig(core="tcn", direction=direction, channels=8, kernel=3, dilations=3, norm="layer")
    layer = TCNLayer(config)
    seen = frames_seen(layer, 20, 41)
    assert reach(layer) == 15 == max(seen) - min(seen) + 1
    assert (max(seen) > 20) is looks_ahead(layer) is (direction == "bi")


CORES = ["lstm", "gru", "mamba", "attention", "mamba2", "tcn", "conformer"]


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("frames", [0, 1, 5])
@pytest.mark.parametrize("norm", ["layer", "group"])
def test_time_layers_together_see_so_many_frames_ahead(core: str, frames: int, norm: str) -> None:
    torch.manual_seed(0)
    small = {"channels": 8, "heads": 2, "layers": 2, "trunk_statistics": "cumulative"}
    model = build_model(ModelConfig(core=core, norm=norm, lookahead=frames, **small))
    assert sum(frames_ahead(layer) for layer in model.time_layers) == frames
    layers = torch.nn.Sequential(*model.time_layers)
    assert max(frames_seen(layers, 4, 16)) == 4 + frames
    assert max(frames_seen(layers, 14, 16)) == min(14 + frames, 15)


def test_without_look_ahead_nothing_changes() -> None:
    config = ModelConfig(channels=8, layers=2, crossband_layers=1)
    torch.manual_seed(0)
    one = build_model(config)
    torch.manual_seed(0)
    other = build_model(config.model_copy(update={"lookahead": 4}))
    assert all(map(torch.equal, one.parameters(), other.parameters()))


@pytest.mark.parametrize("core", ["mamba2", "tcn", "conformer"])
@pytest.mark.parametrize("direction", ["uni", "bi"])
def test_direction_is_what_a_frame_depends_on(core: str, direction: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(core=core, direction=direction, channels=8, heads=2, norm="layer", layers=1)
    layer = build_model(config).time_layers[0]
    assert (max(frames_seen(layer, 5, 12)) > 5) is looks_ahead(layer) is (direction == "bi")


def test_a_conformer_is_its_description() -> None:
    torch.manual_seed(0)
    config = ModelConfig(core="conformer", channels=8, heads=1, kernel=3, norm="layer", direction="bi")
    layer = ConformerLayer(config).double()
    x = torch.randn(1, 1, 6, 8, dtype=torch.float64)

    def feed(module: torch.nn.Sequential, value: Tensor) -> Tensor:
        normed = F.layer_norm(value, (8,), module[0].weight, module[0].bias)
        inner = normed @ module[1].weight.T + module[1].bias
        return (inner * torch.sigmoid(inner)) @ module[3].weight.T + module[3].bias

    def turned(value: Tensor) -> Tensor:
        pairs = torch.complex(value[:, :4], value[:, 4:])
        rates = 10000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
        angles = torch.arange(6, dtype=torch.float64)[:, None] * rates
        pairs = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([pairs.real, pairs.imag], dim=-1)

    y = x[0, 0] + 0.5 * feed(layer.before, x[0, 0])
    projected = F.layer_norm(y, (8,), layer.norm.weight, layer.norm.bias) @ layer.in_proj.weight.T
    query, key, value = (projected + layer.in_proj.bias).split(8, dim=-1)
    mixed = torch.softmax(turned(query) @ turned(key).T / math.sqrt(8), -1) @ value
    y = y + mixed @ layer.out_proj.weight.T + layer.out_proj.bias
    module = layer.convolution
    wide = F.layer_norm(y, (8,), module.norm.weight, module.norm.bias) @ module.wide.weight.T
    left, right = (wide + module.wide.bias).split(8, dim=-1)
    gated = F.pad(left * torch.sigmoid(right), (0, 0, 1, 1))
    convolved = sum(module.conv.conv.weight[:, 0, k] * gated[k : k + 6] for k in range(3))
    convolved = F.layer_norm(
        convolved + module.conv.conv.bias, (8,), module.inner_norm.weight, module.inner_norm.bias
    )
    y = y + F.silu(convolved) @ module.narrow.weight.T + module.narrow.bias
    y = y + 0.5 * feed(layer.after, y)
    expected = F.layer_norm(y, (8,), layer.last_norm.weight, layer.last_norm.bias)
    torch.testing.assert_close(layer(x)[0, 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("core", "word"), [("mamba2", "5 heads of Mamba-2"), ("conformer", "even width")])
def test_heads_that_do_not_divide_are_refused(core: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        build_model(ModelConfig(core=core, channels=16, heads=5))
