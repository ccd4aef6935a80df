from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from ablate.training.config import Recipe
from ablate.training.data.augment import BAND_SHARE, GAIN_RANGE, RT60_RANGE, SNR_RANGE, Augment
from ablate.training.pcs import target
from ablate.training.seeds import generator

RATE = 16_000
NAMES = [field.name for field in fields(Augment) if field.name not in ("rate", "target")]


def batch(clips: int = 6, samples: int = 8000) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    clean = 0.1 * random.standard_normal((clips, samples)).astype(np.float32)
    return clean, clean + 0.05 * random.standard_normal((clips, samples)).astype(np.float32)


def power(signal: np.ndarray) -> np.ndarray:
    return np.square(signal.astype(np.float64)).mean(axis=-1)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_and_step_hear_the_same(name: str) -> None:
    clean, noisy = batch()
    augment = Augment(**{name: 0.5})
    one, again, other = (augment(clean, noisy, generator(1, "augment", step)) for step in (3, 3, 4))
    assert np.array_equal(one[1], again[1])
    assert not np.array_equal(one[1], other[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_share_of_the_clips_is_changed(name: str) -> None:
    clean, noisy = batch(clips=400, samples=400)
    changed = Augment(**{name: 0.3})(clean, noisy, generator(1, "augment", 0))
    same = (changed[1] == noisy).all(axis=1)
    assert 0.2 < 1 - same.mean() < 0.4
    assert np.array_equal(changed[0][same], clean[same])


def test_a_change_draws_the_same_whatever_the_others_are() -> None:
    clean, noisy = batch()
    alone = Augment(gain=1.0)(clean, noisy, generator(1, "augment", 0))
    gain = power(alone[0]) / power(clean)
    beside = Augment(gain=1.0, remix=1.0)(clean, noisy, generator(1, "augment", 0))
    assert power(beside[0]) / power(clean) == pytest.approx(gain, rel=1e-4)


def test_remix_keeps_the_speech_and_sets_the_ratio() -> None:
    clean, noisy = batch()
    speech, mixed = Augment(remix=1.0)(clean, noisy, generator(1, "augment", 0))
    assert np.array_equal(speech, clean)
    ratio = 10 * np.log10(power(speech) / power(mixed - speech))
    assert (ratio >= SNR_RANGE[0] - 0.01).all()
    assert (ratio <= SNR_RANGE[1] + 0.01).all()
    assert ratio.std() > 1


def test_remix_of_silence_leaves_it() -> None:
    clean, noisy = batch()
    clean[0], noisy[1] = 0, clean[1]
    _, mixed = Augment(remix=1.0)(clean, noisy, generator(1, "augment", 0))
    assert np.isfinite(mixed).all()
    assert np.array_equal(mixed[0], noisy[0])


def test_gain_scales_both_alike() -> None:
    clean, noisy = batch()
    speech, mixed = Augment(gain=1.0)(clean, noisy, generator(1, "augment", 0))
    gain = speech[:, :1] / clean[:, :1]
    assert speech == pytest.approx(gain * clean, rel=1e-4, abs=1e-7)
    assert mixed == pytest.approx(gain * noisy, rel=1e-4, abs=1e-7)
    assert (abs(20 * np.log10(gain)) <= GAIN_RANGE[1]).all()


def test_a_masked_band_is_gone_from_both() -> None:
    clean, noisy = batch(clips=40, samples=4000)
    speech, mixed = Augment(band_mask=1.0)(clean, noisy, generator(1, "augment", 0))
    mel = np.log10(1 + np.fft.rfftfreq(4000, 1 / RATE) / 700)
    for before, after in ((clean, speech), (noisy, mixed)):
        kept = abs(np.fft.rfft(after)) > 1e-3 * abs(np.fft.rfft(before))
        for row in kept:
            gone = np.flatnonzero(~row)
            assert gone.size == 0 or (np.diff(gone) == 1).all()
            assert (mel[gone[-1]] - mel[gone[0]]) / mel[-1] <= BAND_SHARE if gone.size else True
        assert (~kept).any(axis=1).mean() > 0.8


def test_a_room_leaves_the_direct_path_and_adds_a_tail() -> None:
    clean = np.zeros((4, RATE), np.float32)
    clean[:, 100] = 1
    speech, mixed = Augment(reverb=1.0)(clean, clean, generator(1, "augment", 0))
    assert speech[:, 100] == pytest.approx(1, rel=1e-4)
    assert not speech[:, :100].round(6).any()
    tail = speech[:, 101:].astype(np.float64)
    assert np.square(tail).sum(axis=1) == pytest.approx(1, rel=1e-3)
    early, late = (np.square(tail[:, a:b]).sum(axis=1) for a, b in ((0, 1600), (8000, 9600)))
    assert (late < early * 10 ** (-6 * 0.5 / RT60_RANGE[1] / 1.5)).all()
    assert mixed == pytest.approx(speech, abs=1e-6)


def test_stretched_targets_leave_what_is_heard() -> None:
    clean, noisy = batch()
    augment = Augment.of(Recipe(target="pcs"))
    assert augment is not None
    learned, heard = augment(clean, noisy, generator(1, "augment", 3))
    assert heard == pytest.approx(noisy, abs=1e-7)
    assert learned == pytest.approx(target(torch.from_numpy(clean.astype(np.float64))).numpy(), abs=1e-6)
    assert Augment.of(Recipe()) is None
