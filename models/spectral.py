"""The signal front end of all systems: 16 kHz waveforms and their complex spectrograms."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

N_FFT = 512
HOP = 128


@lru_cache(maxsize=8)
def _window(device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.hann_window(N_FFT, periodic=True, device=device, dtype=dtype)


def frame_count(samples: int) -> int:
    """Frames of the centred transform of a waveform of `samples` samples."""
    return 1 + samples // HOP


def utterance_frames(samples: int) -> int:
    """Frames the network sees when a whole utterance of `samples` samples is enhanced."""
    return frame_count(max(samples, HOP + 1) + 2 * HOP)


def stft(waveform: Tensor) -> Tensor:
    """Complex spectrogram: 512-point periodic Hann window, hop 128, centred, onesided.

    Args:
        waveform: (batch, sample) at 16 kHz, longer than 256 samples.

    Returns:
        (batch, 257, frame), with `1 + sample // 128` frames.

    Raises:
        ValueError: the waveform is too short for the reflection at its ends.
    """
    samples = waveform.shape[-1]
    if samples <= N_FFT // 2:
        raise ValueError(
            f"{samples} samples are too few for a centred transform; give more than {N_FFT // 2}"
        )
    window = _window(waveform.device, waveform.dtype)
    if waveform.is_cuda:
        return torch.stft(
            reflected(waveform, N_FFT // 2), N_FFT, HOP, window=window, center=False, return_complex=True
        )
    return torch.stft(waveform, N_FFT, HOP, window=window, center=True, return_complex=True)


def reflected(waveform: Tensor, count: int) -> Tensor:
    """`F.pad(waveform, (count, count), mode="reflect")`, of which CUDA has no deterministic backward."""
    first, last = waveform[..., 1 : count + 1], waveform[..., -count - 1 : -1]
    return torch.cat([first.flip(-1), waveform, last.flip(-1)], -1)


def istft(spectrogram: Tensor, samples: int | None = None) -> Tensor:
    """Waveform of a spectrogram of `stft`.

    What `torch.istft` gives, bit for bit; that asks the device whether windows overlap, and so waits for it.

    Args:
        spectrogram: (batch, 257, frame), complex.
        samples: length of the result; None for `(frame - 1) * 128`.

    Returns:
        (batch, sample)
    """
    window = _window(spectrogram.device, spectrogram.real.dtype)
    count = spectrogram.shape[-1]
    length = N_FFT + HOP * (count - 1)
    frames = torch.fft.irfft(spectrogram.transpose(1, 2), N_FFT) * window
    parts = frames, window.square().expand(1, count, N_FFT)
    end = length - N_FFT // 2 if samples is None else N_FFT // 2 + samples
    summed, weight = (
        torch.ops.aten.unfold_backward(part, [len(part), length], 1, N_FFT, HOP)[:, N_FFT // 2 : end]
        for part in parts
    )
    waveform = summed / weight
    return waveform if samples is None else F.pad(waveform, (0, samples - waveform.shape[-1]))


def analyse(waveform: Tensor) -> Tensor:
    """Spectrogram of whole utterances: `hop` reflected samples on both sides, then `stft`.

    Utterances of at most 128 samples are first continued with zeros, as there is nothing to reflect.

    Args:
        waveform: (batch, sample), at least one sample.

    Returns:
        (batch, 257, frame), with `utterance_frames(sample)` frames.

    Raises:
        ValueError: the waveform is empty.
    """
    samples = waveform.shape[-1]
    if samples == 0:
        raise ValueError("an utterance of 0 samples has no spectrogram")
    if samples <= HOP:
        waveform = F.pad(waveform, (0, HOP + 1 - samples))
    return stft(F.pad(waveform, (HOP, HOP), mode="reflect"))


def synthesise(spectrogram: Tensor, samples: int) -> Tensor:
    """Undo `analyse`: (batch, 257, frame) complex -> (batch, `samples`)."""
    padded = max(samples, HOP + 1) + 2 * HOP
    return istft(spectrogram, padded)[..., HOP : HOP + samples]


def enhance_waveform(model: nn.Module, waveform: Tensor) -> Tensor:
    """Enhance whole utterances of one length, as the reference implementation of BSRNN does.

    Args:
        model: maps (batch, 257, frame) complex to the same shape.
        waveform: (batch, sample) at 16 kHz, at least one sample.

    Returns:
        (batch, sample)
    """
    return synthesise(model(analyse(waveform)), waveform.shape[-1])
