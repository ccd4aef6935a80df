"""A short-time Fourier transform of a network's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import InputError
from .registry import suggestion
from .spectral import reflected

WINDOWS: dict[str, Callable[..., Tensor]] = {
    "hann": torch.hann_window,
    "sqrt-hann": lambda length, **kind: torch.hann_window(length, **kind).sqrt(),
    "hamming": torch.hamming_window,
    "rectangular": lambda length, **kind: torch.ones(length, **kind),
}
"""Periodic, by the name that a transform gives."""


@dataclass(frozen=True)
class Transform:
    """Centred and one-sided, of 16 kHz waveforms.

    Args:
        n_fft: points; there are `n_fft // 2 + 1` bins.
        hop: samples from one frame to the next.
        window: a name of `WINDOWS`.
        length: samples of the window; none: `n_fft`.

    Raises:
        InputError: the numbers do not fit together, or no window has that name.
    """

    n_fft: int = 512
    hop: int = 128
    window: str = "hann"
    length: int | None = None

    def __post_init__(self) -> None:
        if self.window not in WINDOWS:
            raise InputError(f"unknown window {self.window!r}{suggestion(self.window, WINDOWS)}")
        if not 0 < self.hop <= self.samples <= self.n_fft:
            raise InputError(
                f"a transform of {self.n_fft} points, hop {self.hop}, window {self.samples}: "
                "the hop is at most the window, and that at most the points"
            )

    @property
    def samples(self) -> int:
        """Of the window."""
        return self.n_fft if self.length is None else self.length

    @property
    def bins(self) -> int:
        return self.n_fft // 2 + 1

    def analyse(self, waves: Tensor) -> Tensor:
        """Waveforms `(batch, sample)` -> complex `(batch, bin, frame)`, `1 + sample // hop` frames.

        Waveforms too short for the reflection at their ends are first continued with zeros.
        """
        waves = F.pad(waves, (0, max(self.n_fft // 2 + 1 - waves.shape[-1], 0)))
        window = _window(self, waves.device, waves.dtype)
        if waves.is_cuda:
            padded = reflected(waves, self.n_fft // 2)
            return torch.stft(
                padded, self.n_fft, self.hop, self.samples, window, center=False, return_complex=True
            )
        return torch.stft(waves, self.n_fft, self.hop, self.samples, window, return_complex=True)

    def synthesise(self, spectrum: Tensor, samples: int | None = None) -> Tensor:
        """Complex `(batch, bin, frame)` -> waveforms `(batch, sample)`; undoes `analyse`."""
        window = _window(self, spectrum.device, spectrum.real.dtype)
        return torch.istft(spectrum, self.n_fft, self.hop, self.samples, window, length=samples)


@lru_cache(maxsize=16)
def _window(transform: Transform, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return WINDOWS[transform.window](transform.samples, device=device, dtype=dtype)
