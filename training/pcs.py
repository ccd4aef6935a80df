"""Perceptual contrast stretching: post-processing that raises PESQ by increasing the contrast of loud and
soft bands.

R. Chao, C. Yu, S.-W. Fu, X. Lu, Y. Tsao, "Perceptual Contrast Stretching on Target Feature for Speech
Enhancement", Interspeech 2022; gains and transform (512 points, hop 256, Hamming) of its public code.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

N_FFT = 512
HOP = 256
_EDGES = (0, 3, 6, 9, 12, 138, 166, 200, 241, 256, 257)
_GAINS = (
    *(1.0, 1.070175439, 1.182456140, 1.287719298, 1.4),
    *(1.322807018, 1.238596491, 1.161403509, 1.077192982, 1.0),
)


def gains() -> Tensor:
    """Exponent-like gain of each of the 257 bins at 16 kHz."""
    widths = torch.tensor(_EDGES).diff()
    return torch.tensor(_GAINS, dtype=torch.float64).repeat_interleave(widths)


def stretch(waveform: Tensor) -> Tensor:
    """Stretch the contrast: magnitudes m become `expm1(gain * log1p(m))`, phases are kept.

    Waveforms are (batch, sample) at 16 kHz in [-1, 1]; the result depends on their level.
    """
    samples = waveform.shape[-1]
    window = torch.hamming_window(N_FFT, periodic=False, dtype=waveform.dtype, device=waveform.device)
    padded = F.pad(waveform, (0, HOP))
    spectrogram = torch.stft(padded, N_FFT, HOP, window=window, pad_mode="constant", return_complex=True)
    gain = gains().to(waveform)[:, None]
    magnitude = torch.expm1(gain * torch.log1p(spectrogram.abs()))
    stretched = torch.polar(magnitude, spectrogram.angle())
    return torch.istft(stretched, N_FFT, HOP, window=window, center=True, length=samples)


def target(waveform: Tensor) -> Tensor:
    """`stretch`, then each waveform scaled to its earlier peak: contrast-stretched speech as a target."""
    return pcs(waveform) * waveform.abs().amax(dim=-1, keepdim=True)


def pcs(waveform: Tensor) -> Tensor:
    """`stretch`, then the peak of each waveform scaled to 1 (silence stays silence)."""
    stretched = stretch(waveform)
    peak = stretched.abs().amax(dim=-1, keepdim=True)
    return stretched / torch.where(peak > 0, peak, 1)
