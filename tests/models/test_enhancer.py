"""What stands around the layers of every network."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ablate.models import PRESETS, build_model
from ablate.models.enhancer import ConsistencyProjection, compress, level
from ablate.models.spectral import istft, stft

NETWORKS = ["bsrnn", "mbsnet", "mbsnet-dual-branch"]


def network(preset: str, **changes: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    small = {"channels": 16, "layers": 1, "crossband_layers": 1}
    return build_model(PRESETS[preset].model_copy(update={**small, **changes})).eval()


def noisy(frames: int = 12) -> torch.Tensor:
    return torch.randn(2, 257, frames, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))


def test_compression_keeps_the_phase() -> None:
    x = noisy()
    torch.testing.assert_close(compress(x, 0.3), torch.polar(x.abs() ** 0.3, x.angle()))
    assert not compress(torch.zeros(1, 257, 2, dtype=torch.complex64), 0.3).abs().any()


def test_level_is_the_root_mean_square_of_an_item() -> None:
    x = noisy()
    x[1] = 0
    assert level(x).flatten().tolist() == pytest.approx([x[0].abs().square().mean().sqrt().item(), 1.0])


@pytest.mark.parametrize("preset", NETWORKS)
def test_with_unit_level_the_output_scales_with_the_input(preset: str) -> None:
    x = noisy()
    unit, plain = network(preset, input_level="unit"), network(preset)
    with torch.no_grad():
        torch.testing.assert_close(unit(1e-4 * x), 1e-4 * unit(x), rtol=1e-3, atol=1e-9)
        assert not torch.allclose(plain(1e-4 * x), 1e-4 * plain(x), rtol=1e-2, atol=1e-9)


@pytest.mark.parametrize("preset", NETWORKS)
def test_the_network_reads_compressed_magnitudes_and_filters_plain_ones(preset: str) -> None:
    x = noisy()
    compressed = network(preset, input_compression=0.3)
    with torch.no_grad():
        features = compressed.split(compress(x, 0.3))
        torch.testing.assert_close(compressed(x), compressed.enhance(features, x))


@pytest.mark.parametrize("preset", NETWORKS)
def test_a_projected_output_is_the_spectrogram_of_a_signal(preset: str) -> None:
    projected, plain = network(preset, projection="consistent"), network(preset)
    with torch.no_grad():
        out = projected(noisy())
        torch.testing.assert_close(out, stft(istft(plain(noisy()))))
        torch.testing.assert_close(out, stft(istft(out)), rtol=1e-4, atol=1e-5)


def test_the_projection_sees_as_far_as_it_says() -> None:
    layer = ConsistencyProjection()
    x = noisy(24).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[:, :, 12].abs().square().sum(), x)
    seen = gradient.abs().sum((0, 1)).gt(1e-9).nonzero().flatten()
    assert seen.tolist() == list(range(12 - layer.looks_ahead, 13 + layer.looks_ahead))
    assert layer.reach == len(seen)


@pytest.mark.parametrize("frames", [1, 3, 4])
def test_short_inputs_pass(frames: int) -> None:
    with torch.no_grad():
        assert network("bsrnn", projection="consistent")(noisy(frames)).shape == (2, 257, frames)


def test_the_parts_around_have_no_parameters() -> None:
    around = {"input_level": "unit", "input_compression": 0.3, "projection": "consistent"}
    assert network("bsrnn", **around).state_dict().keys() == network("bsrnn").state_dict().keys()
