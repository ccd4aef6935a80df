"""Random changes to a share of the clips in a batch, and the target of the training.

The draws depend only on the seed and the step, so every cell of a study gets the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator

from ..audio import SAMPLE_RATE
from ..config import Recipe
from .batches import Waves

SNR_RANGE = (-5.0, 20.0)
"""Of remixed clips, in dB, uniform."""
GAIN_RANGE = (-10.0, 10.0)
"""In dB, uniform."""
BAND_SHARE = 0.2
"""The widest masked band, of the mel scale up to half the sample rate."""
RT60_RANGE = (0.1, 0.6)
"""Seconds after which the impulse response has fallen by 60 dB, uniform."""


@dataclass(frozen=True)
class Augment:
    """The share of clips for each change, in order, and the target."""

    remix: float = 0.0
    reverb: float = 0.0
    gain: float = 0.0
    band_mask: float = 0.0
    target: str = "clean"
    rate: int = SAMPLE_RATE

    @property
    def shares(self) -> tuple[float, ...]:
        return self.remix, self.reverb, self.gain, self.band_mask

    @classmethod
    def of(cls, recipe: Recipe, rate: int = SAMPLE_RATE) -> Augment | None:
        """The changes of a recipe; None if it makes none."""
        augment = cls(recipe.remix, recipe.reverb, recipe.gain, recipe.band_mask, recipe.target, rate)
        return augment if any(augment.shares) or augment.target != "clean" else None

    def __call__(self, clean: Waves, noisy: Waves, random: Generator) -> tuple[Waves, Waves]:
        """Changed copies of a batch.

        Args:
            clean, noisy: `(batch, sample)` at `rate` Hz.
            random: source of all numbers; the shares do not change how many are drawn.
        """
        speech, noise = clean.astype(np.float64), noisy.astype(np.float64) - clean
        changes: list[Callable[..., tuple[Signals, Signals]]]
        changes = [_remix, partial(_reverb, self.rate), _gain, partial(_band, self.rate)]
        for share, change, stream in zip(self.shares, changes, random.spawn(len(changes)), strict=True):
            chosen = stream.random(len(speech)) < share
            if chosen.any():
                speech, noise = change(speech, noise, chosen, stream)
        learned = speech if self.target == "clean" else _stretched(speech)
        return learned.astype(np.float32), (speech + noise).astype(np.float32)


Signals = np.ndarray


def _stretched(speech: Signals) -> Signals:
    import torch

    from ..pcs import target

    return target(torch.from_numpy(speech)).numpy()


def _remix(speech: Signals, noise: Signals, chosen: Signals, random: Generator) -> tuple[Signals, Signals]:
    """Give clips the noise of another clip in the batch, each at its own SNR."""
    noise = noise.copy()
    others = noise[random.permutation(len(noise))]
    snr = random.uniform(*SNR_RANGE, len(noise))
    powers = [np.square(x).mean(axis=1) for x in (speech, others)]
    usable = chosen & (powers[0] > 0) & (powers[1] > 0)
    gains = np.sqrt(powers[0][usable] / powers[1][usable] * 10 ** (-snr[usable] / 10))
    noise[usable] = gains[:, None] * others[usable]
    return speech, noise


def _reverb(
    rate: int, speech: Signals, noise: Signals, chosen: Signals, random: Generator
) -> tuple[Signals, Signals]:
    """Put the speech into a room: exponentially decaying noise after a direct path of equal energy.

    The network then has to find the reverberant speech.
    """
    speech = speech.copy()
    decays = random.uniform(*RT60_RANGE, len(speech))
    length = round(RT60_RANGE[1] * rate)
    tails = random.standard_normal((len(speech), length))
    time = np.arange(length) / rate
    for item in np.flatnonzero(chosen):
        response = tails[item] * np.exp(-np.log(1000) * time / decays[item])
        response[0] = 0.0
        response /= np.sqrt(np.square(response).sum())
        response[0] = 1.0
        size = speech.shape[1] + length
        wet = np.fft.irfft(np.fft.rfft(speech[item], size) * np.fft.rfft(response, size), size)
        speech[item] = wet[: speech.shape[1]]
    return speech, noise


def _gain(speech: Signals, noise: Signals, chosen: Signals, random: Generator) -> tuple[Signals, Signals]:
    """Make the whole clip louder or softer."""
    gains = 10 ** (random.uniform(*GAIN_RANGE, len(speech)) / 20)
    gains = np.where(chosen, gains, 1.0)[:, None]
    return gains * speech, gains * noise


def _band(
    rate: int, speech: Signals, noise: Signals, chosen: Signals, random: Generator
) -> tuple[Signals, Signals]:
    """Remove a band from speech and noise alike (as `BandMask` of Defossez et al. 2020, arXiv:2006.12847)."""
    widths = BAND_SHARE * random.random(len(speech))
    starts = random.random(len(speech)) * (1 - widths)
    mel = 2595 * np.log10(1 + np.fft.rfftfreq(speech.shape[1], 1 / rate) / 700)
    place = mel / mel[-1]
    masked = (place >= starts[:, None]) & (place < (starts + widths)[:, None]) & chosen[:, None]
    return tuple(np.fft.irfft(np.where(masked, 0, np.fft.rfft(x)), x.shape[1]) for x in (speech, noise))  # type: ignore[return-value]
