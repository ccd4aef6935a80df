"""Synthetic noise for the demo corpus: each kind is `(generator, samples, voices) -> (sample,)` at 16 kHz.

`voices` is a list of recordings of speech. Levels are arbitrary; the mixer sets them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...audio import SAMPLE_RATE

Noise = Callable[[np.random.Generator, int, Sequence[np.ndarray]], np.ndarray]


def _shaped(rng: np.random.Generator, samples: int, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Gaussian noise whose amplitude spectrum is `gain(frequency in Hz)`, at unit power."""
    return _unit(_filtered(rng.standard_normal(_fast(samples)), gain)[:samples])


def _filtered(audio: np.ndarray, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    frequency = np.maximum(np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE), 20.0)
    return np.fft.irfft(np.fft.rfft(audio) * gain(frequency), len(audio))


def _fast(samples: int) -> int:
    """The next length with a fast transform."""
    return -(-samples // 4000) * 4000


def in_a_room(rng: np.random.Generator, noise: np.ndarray) -> np.ndarray:
    """The noise `(sample,)` darkened and added to rumble below 80 Hz.

    As in recorded noise, most of the power is rumble; this brings the noisy PESQ at a given SNR near that of
    recordings.
    """
    padded = np.pad(noise, (0, _fast(len(noise)) - len(noise)))
    darker = _filtered(padded, lambda frequency: 1 / np.sqrt(1 + (frequency / 400) ** 2))[: len(noise)]
    rumble = _shaped(rng, len(noise), lambda frequency: 1 / (1 + (frequency / 80) ** 4))
    share = rng.uniform(0.9, 0.96)
    return np.sqrt(1 - share) * _unit(darker) + np.sqrt(share) * rumble


def _unit(audio: np.ndarray) -> np.ndarray:
    return audio / np.sqrt(np.mean(audio**2) + 1e-12)


def _wander(rng: np.random.Generator, samples: int, highest: float) -> np.ndarray:
    """A slow curve of unit power without frequencies above `highest` Hz."""
    return _shaped(rng, samples, lambda frequency: (frequency <= max(highest, 20.0)) * 1.0)


def _envelope(rng: np.random.Generator, samples: int, rate: float) -> np.ndarray:
    """A positive curve with about `rate` movements a second and a mean of about one."""
    knots = np.maximum(1, int(np.ceil(samples / SAMPLE_RATE * rate * 2))) + 2
    return np.interp(np.arange(samples), np.linspace(0, samples, knots), rng.gamma(1.2, 1 / 1.2, knots))


def _pieces(rng: np.random.Generator, samples: int, voices: Sequence[np.ndarray], count: int) -> np.ndarray:
    """`count` talkers at once, each from a random place of random recordings: `(talker, sample)`."""
    talkers = np.zeros((count, samples))
    for talker in talkers:
        line = np.concatenate([voices[i] for i in rng.permutation(len(voices))[:3]])
        while len(line) < samples:
            line = np.concatenate([line, line])
        talker[:] = _unit(np.roll(line, int(rng.integers(len(line))))[:samples]) * rng.uniform(0.6, 1.0)
    return talkers


def _strikes(
    rng: np.random.Generator, samples: int, rate: float, seconds: float, low: float, high: float
) -> np.ndarray:
    """Short ringing bursts, `rate` a second, each decaying within `seconds`."""
    length = int(seconds * SAMPLE_RATE)
    time = np.arange(length) / SAMPLE_RATE
    out = np.zeros(samples + length)
    for start in rng.integers(0, samples, rng.poisson(rate * samples / SAMPLE_RATE) + 1):
        tone = np.sin(2 * np.pi * rng.uniform(low, high) * time + rng.uniform(0, 2 * np.pi))
        burst = (tone + 0.7 * rng.standard_normal(length)) * np.exp(-time * 6 / seconds)
        out[start : start + length] += rng.lognormal(0, 0.6) * burst
    return _unit(out[:samples])


def babble(rng: np.random.Generator, samples: int, voices: Sequence[np.ndarray]) -> np.ndarray:
    """Five talkers at once."""
    return _pieces(rng, samples, voices, 5).sum(axis=0)


def speech_shaped(rng: np.random.Generator, samples: int, voices: Sequence[np.ndarray]) -> np.ndarray:
    """Steady noise with the mean spectrum of the voices."""
    size = 512
    frames = np.concatenate([voice[: len(voice) // size * size].reshape(-1, size) for voice in voices])
    mean = np.sqrt((np.abs(np.fft.rfft(frames * np.hanning(size))) ** 2).mean(axis=0))
    grid = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    return _shaped(rng, samples, lambda frequency: np.interp(frequency, grid, mean))


def modulated(rng: np.random.Generator, samples: int, voices: Sequence[np.ndarray]) -> np.ndarray:
    """Speech-shaped noise that swells and falls like syllables."""
    return speech_shaped(rng, samples, voices) * _envelope(rng, samples, 4.0)


def hum(rng: np.random.Generator, samples: int, voices: Sequence[np.ndarray]) -> np.ndarray:
    """Mains hum with its harmonics over faint broadband noise."""
    time = np.arange(samples) / SAMPLE_RATE
    base = rng.choice([50.0, 60.0]) * rng.uniform(0.998, 1.002)
    tones = sum(
        rng.uniform(0.2, 1) / order**0.5 * np.sin(2 * np.pi * base * order * time + rng.uniform(0, 6.28))
        for order in range(1, 41)
    )
    return _unit(np.asarray(tones)) + 0.35 * _shaped(rng, samples, lambda frequency: frequency**-0.5)


def rain(rng: np.random.Generator, samples: int, voices: Sequence[np.ndarray]) -> np.ndarray:
    """Drops over a hiss."""
    hiss = _shaped(rng, samples, lambda frequency: np.minimum(frequency / 1500, 1))
    return hiss + 0.8 * _strikes(rng, samples, 90, 0.012, 1500, 6000)


def wind(rng: np.random.Generator, samples: int, voices: Sequence[np.ndarray]) -> np.ndarray:
    """Low noise in gusts."""
    low = _shaped(rng, samples, lambda frequency: 1 / (1 + (frequency / 250) ** 1.5))
    return low * (0.3 + _envelope(rng, samples, 1.2)) + 0.15 * _shaped(rng, samples, lambda f: f**-0.5)


def crowd(rng: np.random.Generator, samples: int, voices: Sequence[np.ndarray]) -> np.ndarray:
    """Many talkers in a hall, with the clatter of dishes."""
    talk = _pieces(rng, samples, voices, 12).sum(axis=0)
    length = SAMPLE_RATE // 2
    tail = rng.standard_normal(length) * np.exp(-np.arange(length) / (0.12 * SAMPLE_RATE))
    size = _fast(samples + length)
    hall = np.fft.irfft(np.fft.rfft(talk, size) * np.fft.rfft(tail, size), size)[:samples]
    return _unit(talk) + _unit(hall) + 0.5 * _strikes(rng, samples, 2, 0.05, 2500, 5000)


def traffic(rng: np.random.Generator, samples: int, voices: Sequence[np.ndarray]) -> np.ndarray:
    """A rumble with passing cars."""
    rumble = _shaped(rng, samples, lambda frequency: 1 / (1 + (frequency / 150) ** 2))
    tyres = _shaped(rng, samples, lambda frequency: 1 / (1 + ((frequency - 900) / 700) ** 2))
    time = np.linspace(0, 1, samples)
    passing = np.exp(-(((time - rng.uniform(0.2, 0.8)) / rng.uniform(0.1, 0.3)) ** 2))
    return rumble + 0.9 * tyres * (0.35 + passing)


def typing(rng: np.random.Generator, samples: int, voices: Sequence[np.ndarray]) -> np.ndarray:
    """A keyboard beside a fan."""
    fan = _shaped(rng, samples, lambda frequency: 1 / (1 + (frequency / 600) ** 1.2))
    return fan + 1.2 * _strikes(rng, samples, 8, 0.03, 800, 4500)


def machine(rng: np.random.Generator, samples: int, voices: Sequence[np.ndarray]) -> np.ndarray:
    """A motor: a whine over beating noise."""
    time = np.arange(samples) / SAMPLE_RATE
    beat = 1 + 0.8 * np.sin(2 * np.pi * rng.uniform(8, 16) * time)
    drift = 1 + 0.01 * _wander(rng, samples, 20)
    phase = 2 * np.pi * np.cumsum(rng.uniform(180, 320) * drift) / SAMPLE_RATE
    whine = sum(np.sin(order * phase) / order for order in (1, 2, 3, 5, 8))
    noise = _shaped(rng, samples, lambda frequency: 1 / (1 + (frequency / 1500) ** 2))
    return noise * beat + 0.6 * _unit(np.asarray(whine))


TRAIN_NOISES: dict[str, Noise] = {
    "babble": babble,
    "speech-shaped": speech_shaped,
    "modulated": modulated,
    "hum": hum,
    "rain": rain,
    "wind": wind,
}
TEST_NOISES: dict[str, Noise] = {"crowd": crowd, "traffic": traffic, "typing": typing, "machine": machine}
