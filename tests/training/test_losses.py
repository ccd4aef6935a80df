import math

import numpy as np
import pytest
import torch

from ablate.ablations.factors import find
from ablate.models.errors import InputError
from ablate.models.spectral import stft
from ablate.training import losses
from ablate.training.config import Recipe, RunConfig
from ablate.training.losses import (
    LOSSES,
    Estimated,
    WeightedLoss,
    adversarial_distance,
    compressed_magnitude,
    inconsistency,
    negative_si_sdr,
    phase_distance,
    stft_distance,
)
from ablate.training.metrics import score

ZERO = {field: 0.0 for field, _ in LOSSES.values()}


def of(**weights):
    return WeightedLoss.of(Recipe(**{**ZERO, **weights}))


def spectra(seed=0, dtype=torch.float32, samples=2048):
    torch.manual_seed(seed)
    clean, noise = torch.randn(2, 2, samples, dtype=dtype)
    return stft(clean + 0.3 * noise), stft(clean), clean


pytestmark = pytest.mark.numerics


def test_values_by_hand():
    clean = torch.tensor([[[3 + 4j, 0j]]])
    estimate = torch.tensor([[[0j, 1j]]])
    assert of(complex_weight=2.0)(estimate, clean).item() == pytest.approx(2 * (5 + 1) / 2)
    floor = 1e-10**0.3
    wanted = 3 * ((5**0.3 - floor) + (1 - floor)) / 2
    assert of(magnitude_weight=3.0)(estimate, clean).item() == pytest.approx(wanted, rel=1e-6)


def test_the_reference_weights_are_the_default():
    default = {name: getattr(Recipe(), field) for name, (field, _) in LOSSES.items()}
    assert {name: weight for name, weight in default.items() if weight} == {"complex": 0.5, "magnitude": 0.5}


def test_every_loss_has_a_weight_of_its_own():
    assert {f for f in Recipe.model_fields if f.endswith("_weight")} == {*ZERO, "adversarial_weight"}


def test_compressed_silence_is_the_floor():
    assert compressed_magnitude(torch.zeros(2, dtype=torch.complex64)).tolist() == pytest.approx([1e-3] * 2)


@pytest.mark.parametrize("field", ZERO)
def test_the_gradient_at_silence_is_finite(field):
    estimate = torch.zeros(1, 257, 9, dtype=torch.complex64, requires_grad=True)
    of(**{field: 1.0})(estimate, stft(torch.randn(1, 1024))).backward()
    assert torch.isfinite(torch.view_as_real(estimate.grad)).all()


@pytest.mark.parametrize("field", ZERO)
def test_clean_speech_is_the_least_loss(field):
    estimate, clean, _ = spectra()
    loss = of(**{field: 1.0})
    assert loss(clean, clean) < loss(estimate, clean)
    assert (loss(clean, clean).abs() < 1e-4) or field == "si_sdr_weight"


@pytest.mark.parametrize("field", ["complex_weight", "magnitude_weight", "phase_weight"])
def test_gradients_agree_with_differences(field):
    torch.manual_seed(0)
    estimate = torch.randn(1, 3, 2, dtype=torch.complex128, requires_grad=True)
    clean = torch.randn(1, 3, 2, dtype=torch.complex128)
    assert torch.autograd.gradcheck(lambda x: of(**{field: 1.0})(x, clean), (estimate,))


def test_si_sdr_is_the_metric():
    estimate, clean, wave = spectra(dtype=torch.float64, samples=16384)
    pair = Estimated(estimate, clean)
    enhanced = pair.waves[0]
    measured = [score(c, e, 16000)["si_sdr"] for c, e in zip(wave.numpy(), enhanced.numpy(), strict=True)]
    assert -negative_si_sdr(pair).item() == pytest.approx(np.mean(measured), rel=1e-6)


def test_the_waveform_distance_in_plain_words():
    estimate, clean, wave = spectra(dtype=torch.float64)
    found = of(waveform_weight=3.0)(estimate, clean).item()
    heard = torch.istft(estimate, 512, 128, window=torch.hann_window(512, dtype=torch.float64))
    assert found == pytest.approx(3 * np.abs(heard.numpy() - wave.numpy()).mean(), rel=1e-6)


def test_the_multi_resolution_distance_in_plain_words():
    estimate, clean, _ = spectra(dtype=torch.float64, samples=4096)
    pair = Estimated(estimate, clean)

    def magnitudes(wave, points, hop, length):
        window = np.zeros(points)
        start = (points - length) // 2
        window[start : start + length] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
        padded = np.pad(wave, points // 2)
        frames = [padded[i : i + points] * window for i in range(0, len(padded) - points + 1, hop)]
        return np.maximum(np.abs(np.fft.rfft(frames)), 1e-5)

    total = 0.0
    for points, hop, length in ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200)):
        ours, theirs = (
            np.stack([magnitudes(wave, points, hop, length) for wave in waves.numpy()])
            for waves in pair.waves
        )
        total += np.sqrt(((theirs - ours) ** 2).sum() / (theirs**2).sum())
        total += np.abs(np.log(theirs) - np.log(ours)).mean()
    assert stft_distance(pair).item() == pytest.approx(total / 3, rel=1e-8)


def test_the_phase_distance_in_plain_words():
    estimate, clean, _ = spectra(dtype=torch.float64, samples=640)
    error = np.angle(estimate.numpy()) - np.angle(clean.numpy())

    def distance(angle):
        return np.abs(np.angle(np.exp(1j * angle))).mean()

    by_bin = error[:, 1:] - error[:, :-1]
    by_frame = error[:, :, 1:] - error[:, :, :-1]
    wanted = distance(error) + distance(by_bin) + distance(by_frame)
    assert phase_distance(Estimated(estimate, clean)).item() == pytest.approx(wanted, rel=1e-8)


def test_turning_all_phases_by_full_circles_costs_nothing():
    _, clean, _ = spectra()
    assert phase_distance(Estimated(-clean * -1, clean)).item() == pytest.approx(0, abs=1e-4)
    assert phase_distance(Estimated(-clean, clean)).item() == pytest.approx(math.pi, rel=1e-3)


def test_only_a_spectrogram_of_a_signal_is_consistent():
    estimate, clean, _ = spectra()
    assert inconsistency(Estimated(estimate, clean)).item() < 1e-5
    turned = estimate * torch.exp(1j * torch.rand_like(estimate.real) * 6)
    assert inconsistency(Estimated(turned, clean)).item() > 1


def test_adversarial_distance():
    assert adversarial_distance(torch.tensor([1.0, 0.5])).item() == pytest.approx(0.125)


def test_shapes_are_compared():
    with pytest.raises(ValueError, match=r"\(1, 2, 3\).*\(1, 2, 4\)"):
        of(complex_weight=1.0)(torch.zeros(1, 2, 3) + 0j, torch.zeros(1, 2, 4) + 0j)


def test_no_term_is_zero():
    x = torch.ones(1, 2, 3) + 0j
    assert of()(x, 2 * x).item() == 0


def test_a_plug_in_brings_a_loss(monkeypatch):
    monkeypatch.setattr(losses, "_plugins", {})
    losses.register("loudness", lambda pair: pair.estimate.abs().mean())
    x = torch.full((1, 2, 3), 2.0) + 0j
    assert of(losses={"loudness": 0.5})(x, x).item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="exists already"):
        losses.register("complex", lambda pair: pair.estimate.abs().mean())
    with pytest.raises(ValueError, match=r"'loudnes'.*did you mean 'loudness'"):
        of(losses={"loudnes": 0.5})
    with pytest.raises(InputError, match=r"recipe\.losses\.stft is built in; set recipe\.stft_weight"):
        of(losses={"stft": 0.5})


def test_a_loss_of_ones_own_is_a_factor():
    config = RunConfig.of("bsrnn").with_changes({"recipe.losses.mine": 0.5, "recipe.losses.other": 1})
    assert config.recipe.losses == {"mine": 0.5, "other": 1}
    assert find("recipe.losses.mine", ["0", "0.5"]).levels["0.5"] == {"recipe.losses.mine": 0.5}
    assert find("recipe.losses.mine", ["0", "0.5"]).paths == {"recipe.losses.mine"}
    with pytest.raises(ValueError, match=r"recipe\.loses"):
        RunConfig.of("bsrnn").with_changes({"recipe.loses.mine": 0.5})
