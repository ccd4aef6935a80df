import numpy as np
import pytest
import scipy.signal
import torch

from ablate.models.layouts import BINS
from ablate.models.spectral import (
    HOP,
    N_FFT,
    analyse,
    frame_count,
    istft,
    stft,
    synthesise,
    utterance_frames,
)
from ablate.models.transform import Transform, reflected

pytestmark = pytest.mark.numerics


def noise(samples: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))


def test_two_seconds_have_251_frames():
    spectrogram = stft(noise(32_000, batch=2))
    assert spectrogram.shape == (2, BINS, 251)
    assert frame_count(32_000) == 251


def test_stft_agrees_with_scipy():
    waveform = noise(2_048)
    window = scipy.signal.get_window("hann", N_FFT, fftbins=True)
    padded = np.pad(waveform[0].double().numpy(), N_FFT // 2, mode="reflect")
    frames = np.stack([padded[i : i + N_FFT] for i in range(0, len(padded) - N_FFT + 1, HOP)], axis=1)
    expected = np.fft.rfft(frames * window[:, None], axis=0)
    assert np.allclose(stft(waveform.double())[0].numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("samples", [257, 1_000, 1_023, 1_024, 1_025])
def test_istft_undoes_stft_at_any_length(samples):
    waveform = noise(samples)
    assert torch.allclose(istft(stft(waveform), samples), waveform, atol=1e-5)


def test_too_short_a_waveform_is_refused_with_its_length():
    with pytest.raises(ValueError, match="256 samples"):
        stft(noise(256))


@pytest.mark.parametrize("samples", [1, 2, 127, 128, 129, 130, 511, 4_001])
def test_an_identity_network_returns_the_utterance(samples):
    waveform = noise(samples, batch=2)
    spectrogram = analyse(waveform)
    assert torch.allclose(synthesise(spectrogram, samples), waveform, atol=1e-5)
    assert spectrogram.shape[-1] == utterance_frames(samples)


def test_an_empty_utterance_is_refused():
    with pytest.raises(ValueError, match="0 samples"):
        analyse(torch.zeros(1, 0))


def test_utterances_are_reflected_by_one_hop():
    waveform = noise(1_000)
    left, right = waveform[:, 1 : HOP + 1].flip(-1), waveform[:, -HOP - 1 : -1].flip(-1)
    expected = stft(torch.cat([left, waveform, right], dim=-1))
    assert torch.equal(analyse(waveform), expected)
    assert synthesise(expected, 1_000).shape == (1, 1_000)


def test_gradients_flow_after_use_in_inference_mode():
    with torch.inference_mode():
        stft(noise(600))
    waveform = noise(600).requires_grad_()
    istft(stft(waveform), 600).square().sum().backward()
    assert waveform.grad is not None
    assert torch.isfinite(waveform.grad).all()


@pytest.mark.parametrize(
    ("samples", "wanted"), [(4000, None), (4000, 4000), (4000, 3999), (300, 300), (4000, 4100)]
)
def test_the_inverse_is_that_of_torch_bit_for_bit(samples, wanted):
    torch.manual_seed(0)
    one = stft(torch.randn(2, samples)).requires_grad_()
    other = one.detach().clone().requires_grad_()
    window = torch.hann_window(512)
    waves = istft(one, wanted), torch.istft(other, 512, 128, window=window, length=wanted)
    assert torch.equal(*waves)
    for wave in waves:
        wave.square().sum().backward()
    assert torch.equal(torch.view_as_real(one.grad), torch.view_as_real(other.grad))


@pytest.mark.parametrize("transform", [Transform(320, 160, "hamming"), Transform(510, 90, length=401)])
@pytest.mark.parametrize("wanted", [None, 3999, 4100])
def test_the_inverse_of_another_transform_is_that_of_torch_bit_for_bit(transform, wanted):
    spectrogram = transform.analyse(noise(4000, batch=2))
    window = {"hann": torch.hann_window, "hamming": torch.hamming_window}[transform.window](transform.samples)
    expected = torch.istft(
        spectrogram, transform.n_fft, transform.hop, transform.samples, window, length=wanted
    )
    assert torch.equal(transform.synthesise(spectrogram, wanted), expected)


def test_reflection_by_parts_is_that_of_torch_bit_for_bit():
    torch.manual_seed(0)
    one = torch.randn(2, 600).requires_grad_()
    other = one.detach().clone().requires_grad_()
    padded = reflected(one, 256), torch.nn.functional.pad(other, (256, 256), mode="reflect")
    assert torch.equal(*padded)
    weights = torch.randn(2, 1112)
    for wave in padded:
        (wave * weights).sum().backward()
    assert torch.equal(one.grad, other.grad)
