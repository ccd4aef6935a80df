"""Short-time Fourier transforms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import InputError
from .registry import suggestion

WINDOWS: dict[str, Callable[..., Tensor]] = {
    "hann": torch.hann_window,
    "sqrt-hann": lambda length, **kind: torch.hann_window(length, **kind).sqrt(),
    "hamming": torch.hamming_window,
    "rectangular": lambda length, **kind: torch.ones(length, **kind),
}
"""Periodic windows, by name."""


@dataclass(frozen=True)
class Transform:
    """A centred, one-sided short-time Fourier transform and its inverse.

    Args:
        n_fft: FFT size; there are `n_fft // 2 + 1` bins.
        hop: samples between frames.
        window: a key of `WINDOWS`.
        length: length of the window in samples; default: `n_fft`.

    Raises:
        InputError: the sizes are inconsistent, or the window is unknown.
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
                f"a transform of {self.n_fft} points, hop {self.hop}, window {self.samples} is not valid: "
                "hop <= window <= points is required"
            )
        if self.hop == self.samples and self.window.endswith("hann"):
            raise InputError(
                f"hop {self.hop}, window {self.samples}: a {self.window} window is zero at its edge, "
                f"so windows have to overlap; give a hop below {self.samples}"
            )

    @property
    def samples(self) -> int:
        """Length of the window in samples."""
        return self.n_fft if self.length is None else self.length

    @property
    def bins(self) -> int:
        return self.n_fft // 2 + 1

    def analyse(self, waves: Tensor) -> Tensor:
        """Waveforms `(batch, sample)` -> complex `(batch, bin, frame)`, `1 + sample // hop` frames.

        Waveforms too short for reflection padding are zero-padded first.
        """
        missing = self.n_fft // 2 + 1 - waves.shape[-1]
        waves = F.pad(waves, (0, missing)) if missing > 0 else waves
        window = _window(self, waves.device, waves.dtype)
        if waves.is_cuda:
            padded = reflected(waves, self.n_fft // 2)
            return torch.stft(
                padded, self.n_fft, self.hop, self.samples, window, center=False, return_complex=True
            )
        return torch.stft(waves, self.n_fft, self.hop, self.samples, window, return_complex=True)

    def synthesise(self, spectrum: Tensor, samples: int | None = None) -> Tensor:
        """Complex `(batch, bin, frame)` -> waveforms `(batch, sample)`; undoes `analyse`.

        Bit-identical to `torch.istft`, but without its check of the window sums, which waits for the device.

        Args:
            samples: length of the result; None for `(frame - 1) * hop`.
        """
        points, hop, count = self.n_fft, self.hop, spectrum.shape[-1]
        window = _window(self, spectrum.device, spectrum.real.dtype)
        left = (points - self.samples) // 2
        window = F.pad(window, (left, points - self.samples - left)) if self.samples < points else window
        length = points + hop * (count - 1)
        frames = torch.fft.irfft(spectrum.transpose(1, 2), points) * window
        parts = frames, window.square().expand(1, count, points)
        end = length - points // 2 if samples is None else points // 2 + samples
        summed, weight = (
            torch.ops.aten.unfold_backward(part, [len(part), length], 1, points, hop)[:, points // 2 : end]
            for part in parts
        )
        waves = summed / weight
        return waves if samples is None else F.pad(waves, (0, samples - waves.shape[-1]))


def reflected(waves: Tensor, count: int) -> Tensor:
    """`F.pad(waves, (count, count), mode="reflect")` with a backward pass that is deterministic on CUDA."""
    first, last = waves[..., 1 : count + 1], waves[..., -count - 1 : -1]
    return torch.cat([first.flip(-1), waves, last.flip(-1)], -1)


@lru_cache(maxsize=16)
def _window(transform: Transform, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return WINDOWS[transform.window](transform.samples, device=device, dtype=dtype)
