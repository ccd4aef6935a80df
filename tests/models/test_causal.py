"""Networks whose every frame depends on the frames so far alone."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from ablate.models import ModelConfig, build_model
from ablate.models.norms import EPSILON, cumulative_sum, standardise_so_far
from ablate.models.summary import summarise

pytestmark = pytest.mark.numerics

CAUSAL: dict[str, Any] = {
    "split_statistics": "cumulative",
    "trunk_statistics": "cumulative",
    "decoder_statistics": "cumulative",
    "filter_taps": "past",
}


def sees_future(changes: dict[str, Any]) -> bool:
    torch.manual_seed(0)
    small = {"channels": 16, "layers": 2, "crossband_layers": 1, "decoder_expansion": 1}
    model = build_model(ModelConfig(**{**small, **changes})).eval()
    one = torch.randn(1, 257, 24, dtype=torch.complex64)
    other = one.clone()
    other[..., 12:] = torch.randn(1, 257, 12, dtype=torch.complex64)
    with torch.no_grad():
        return not torch.equal(model(one)[..., :12], model(other)[..., :12])


@pytest.mark.parametrize("core", ["lstm", "gru", "mamba", "mamba2", "tcn"])
@pytest.mark.parametrize("crossband", ["bilstm", "bimamba", "pointwise"])
def test_with_all_four_a_network_is_strictly_causal(core: str, crossband: str) -> None:
    assert not sees_future({**CAUSAL, "core": core, "crossband": crossband})


@pytest.mark.parametrize("field", CAUSAL)
def test_each_one_alone_lets_the_future_in(field: str) -> None:
    assert sees_future({name: value for name, value in CAUSAL.items() if name != field})


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200, 5000])
def test_cumulative_sums(length: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, length, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(cumulative_sum(x), x.cumsum(-1))
    weight = torch.randn_like(x)
    (ours,) = torch.autograd.grad((cumulative_sum(x) * weight).sum(), x)
    torch.testing.assert_close(ours, weight.flip(-1).cumsum(-1).flip(-1))


def test_statistics_so_far_are_those_of_the_frames_so_far() -> None:
    torch.manual_seed(0)
    x = 3 + 2 * torch.randn(2, 5, 9, 4, dtype=torch.float64)
    normed = standardise_so_far(x, [1, 3], time=2)
    for item, frame in itertools.product(range(2), range(9)):
        part = x[item, :, : frame + 1]
        expected = (x[item, :, frame] - part.mean()) / (part.var(correction=0) + EPSILON).sqrt()
        torch.testing.assert_close(normed[item, :, frame], expected)


def test_silence_at_the_start_stays_finite() -> None:
    x = torch.zeros(1, 2, 6, 3, requires_grad=True)
    normed = standardise_so_far(x, [1, 3], time=2)
    normed.square().sum().backward()
    assert not normed.any()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_the_latency_is_the_window_and_the_frames_ahead() -> None:
    causal = ModelConfig(channels=16, layers=1, crossband_layers=1, **CAUSAL)
    assert summarise(causal)["latency_ms"] == 32
    assert summarise(causal.model_copy(update={"filter_taps": "centred"}))["latency_ms"] == 40
    assert summarise(causal.model_copy(update={"lookahead": 4}))["latency_ms"] == 64
    assert summarise(causal.model_copy(update={"direction": "bi"}))["latency_ms"] is None
    assert summarise(causal.model_copy(update={"trunk_statistics": "utterance"}))["latency_ms"] is None


def test_the_parameters_are_the_same() -> None:
    offline = ModelConfig(channels=16, layers=1, crossband_layers=1)
    assert summarise(offline)["parameters"] == summarise(offline.model_copy(update=CAUSAL))["parameters"]


def test_gradients_through_the_statistics_agree_with_differences() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: standardise_so_far(x, [1, 3], time=2), (x,))
