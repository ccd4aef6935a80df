import numpy as np
import pytest
import torch

from ablate.training.pcs import gains, pcs, stretch, target

pytestmark = pytest.mark.numerics


def noise(samples: int, batch: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_gains_by_bin():
    expected = np.ones(257)
    for (low, high), value in {
        (3, 6): 1.070175439,
        (6, 9): 1.182456140,
        (9, 12): 1.287719298,
        (12, 138): 1.4,
        (138, 166): 1.322807018,
        (166, 200): 1.238596491,
        (200, 241): 1.161403509,
        (241, 256): 1.077192982,
    }.items():
        expected[low:high] = value
    assert np.array_equal(gains().numpy(), expected)


def test_agrees_with_a_restatement_in_numpy():
    signal = noise(3_000)[0].numpy()
    padded = np.pad(signal, (256, 512))
    window = np.hamming(512)
    total, weight = np.zeros(len(padded)), np.zeros(len(padded))
    for start in range(0, len(padded) - 511, 256):
        spectrum = np.fft.rfft(padded[start : start + 512] * window)
        magnitude = (1 + np.abs(spectrum)) ** gains().numpy() - 1
        frame = np.fft.irfft(magnitude * np.exp(1j * np.angle(spectrum)), 512)
        total[start : start + 512] += frame * window
        weight[start : start + 512] += window**2
    expected = (total / np.where(weight > 0, weight, 1))[256 : 256 + 3_000]
    assert np.allclose(stretch(torch.from_numpy(signal)[None])[0], expected, atol=1e-9)
    assert np.allclose(pcs(torch.from_numpy(signal)[None])[0], expected / np.abs(expected).max(), atol=1e-9)


@pytest.mark.parametrize("samples", [1, 255, 256, 257, 4_001])
def test_length_is_kept_and_the_peak_is_one(samples):
    result = pcs(noise(samples, batch=3))
    assert result.shape == (3, samples)
    assert torch.allclose(result.abs().amax(dim=-1), torch.ones(3, dtype=torch.float64))


def test_a_target_is_stretched_and_as_loud_as_the_clean_clip():
    wave = torch.from_numpy(np.random.default_rng(3).standard_normal((2, 8000))) * torch.tensor(
        [[0.1], [0.01]]
    )
    found = target(wave)
    torch.testing.assert_close(found.abs().amax(1), wave.abs().amax(1))
    torch.testing.assert_close(found / found.abs().amax(1, True), pcs(wave))


def test_silence_stays_silence():
    assert torch.equal(pcs(torch.zeros(1, 1_000)), torch.zeros(1, 1_000))


def test_contrast_grows_with_level():
    quiet, loud = (stretch(level * noise(8_000)).square().mean().sqrt() for level in (1, 10))
    assert loud > 10 * quiet
