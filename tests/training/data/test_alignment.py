"""Wrong pairs are found, and right ones in strong noise and in rooms are not called wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
from scipy.signal import fftconvolve

from ablate.training.data.alignment import Fit, fit

RATE = 16_000
Change = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


@lru_cache
def speech(seed: int, seconds: float = 2.5) -> np.ndarray:
    """Voiced syllables of a gliding pitch through moving formants, and hissing between them, over faint
    noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = rng.uniform(90, 220) * (
        1 + 0.15 * np.sin(2 * np.pi * rng.uniform(0.4, 0.9) * time + rng.uniform(0, 6))
    )
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    centres = [rng.uniform(*span) for span in ((300, 900), (900, 2300), (2300, 3400))]
    voice = np.zeros_like(time)
    for k in range(1, 40):
        weight = sum(np.exp(-(((k * pitch - c * (1 + 0.2 * np.sin(3 * time))) / 250) ** 2)) for c in centres)
        voice += (weight + 0.02) / k**0.5 * np.sin(k * phase + rng.uniform(0, 6))
    syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2, 4) * time + rng.uniform(0, 6)), 0, None)
    hiss = np.clip(-np.sin(2 * np.pi * 3 * time), 0, None) ** 8 * rng.standard_normal(len(time))
    return 0.05 * voice * syllables + 0.02 * hiss + 2e-4 * rng.standard_normal(len(time))


def at_snr(clean: np.ndarray, noise: np.ndarray, decibels: float) -> np.ndarray:
    return clean + noise * np.sqrt((clean @ clean) / (noise @ noise)) * 10 ** (-decibels / 20)


def white(size: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(size)


def babble(size: int, rng: np.random.Generator) -> np.ndarray:
    return sum(speech(100 + int(rng.integers(10)), size / RATE) for _ in range(3))


def bursts(size: int, rng: np.random.Generator) -> np.ndarray:
    noise = np.zeros(size)
    for start in rng.integers(0, size - 4000, 4):
        noise[start : start + 4000] += rng.standard_normal(4000) * np.exp(-np.arange(4000) / 600)
    return noise


def room(rng: np.random.Generator, direct: float = 1.0, seconds: float = 0.8) -> np.ndarray:
    """An impulse response: a direct path, then noise of energy 1 that falls by 60 dB in `seconds`."""
    time = np.arange(round(seconds * RATE)) / RATE
    response = rng.standard_normal(len(time)) * np.exp(-np.log(1000) * time / seconds)
    response /= np.sqrt(response @ response)
    response[0] = direct
    return response


def early(clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A target with the first 50 ms of the room."""
    response = room(rng)
    target = fftconvolve(clean, response[:800])[: len(clean)]
    return target, at_snr(fftconvolve(clean, response)[: len(clean)], babble(len(clean), rng), 5)


def in_room(direct: float, decibels: float) -> Change:
    def change(clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        wet = fftconvolve(clean, room(rng, direct))[: len(clean)]
        return clean, at_snr(wet, white(len(clean), rng), decibels)

    return change


RIGHT: dict[str, Change] = {
    **{
        f"{noise.__name__} at {decibels} dB": lambda c, r, n=noise, d=decibels: (
            c,
            at_snr(c, n(len(c), r), d),
        )
        for noise in (white, babble, bursts)
        for decibels in (-10, 0, 15)
    },
    "RT60 .8 s": in_room(1.0, 20),
    "RT60 .8 s far away, in noise": in_room(0.5, 0),
    "early reflections": early,
    "no noise": lambda c, r: (c, c.copy()),
    "clipped": lambda c, r: (c, np.clip(20 * at_snr(c, white(len(c), r), 5), -0.5, 0.5)),
    "pauses of zeros": lambda c, r: (np.where(abs(c) < 1e-3, 0, c), at_snr(c, bursts(len(c), r), 0)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_pairs_are_no_errors(name: str) -> None:
    for seed in range(3):
        one = fit(*RIGHT[name](speech(seed), np.random.default_rng(seed)))
        assert not one.late, (seed, one)
        assert not one.swapped, (seed, one)
        assert one.height > 0 or not one.sure, (seed, one)


def of(
    change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], decibels: float = 5
) -> list[Fit]:
    found = []
    for seed in range(3):
        clean, rng = speech(seed), np.random.default_rng(seed)
        found.append(fit(*change(clean, at_snr(clean, white(len(clean), rng), decibels))))
    return found


@pytest.mark.parametrize("samples", [320, -320, 640, 8000])
@pytest.mark.parametrize("decibels", [15, -5])
def test_a_lag_is_found_to_the_sample(samples: int, decibels: float) -> None:
    for one in of(lambda clean, noisy: (clean, np.roll(noisy, samples)), decibels):
        assert one.late
        assert one.lag == samples / RATE


def test_exchanged_files_are_found() -> None:
    assert all(one.swapped for one in of(lambda clean, noisy: (noisy, clean)))
    assert all(one.swapped for one in of(lambda clean, noisy: (noisy, 0.1 * clean), 0))


def test_inverted_files_and_levels_are_measured() -> None:
    inverted = of(lambda clean, noisy: (clean, -noisy))
    assert all(one.sure for one in inverted)
    assert all(one.height < 0 for one in inverted)
    assert all(one.height > 0 for one in of(lambda clean, noisy: (clean, noisy)))
    for one in of(lambda clean, noisy: (clean, 0.1 * noisy)):
        assert one.gain == pytest.approx(-20, abs=0.5)
    assert of(lambda clean, noisy: (32_768 * clean, 32_768 * noisy))[0].peak > 1000


def test_the_wrong_partner_is_weak() -> None:
    noisy = [at_snr(speech(s), white(40_000, np.random.default_rng(s)), 10) for s in range(8)]
    found = [fit(speech(seed), noisy[(seed + 1) % 8]) for seed in range(8)]
    assert sum(one.weak for one in found) >= 7
    assert not any(one.late or one.swapped for one in found)


def test_silence_and_what_is_not_finite_says_nothing() -> None:
    clean = speech(0)
    for other in (0 * clean, np.full_like(clean, np.nan)):
        one = fit(clean, other)
        assert (one.late, one.swapped, one.weak) == (False, False, False)
