"""The signal front end of the built-in networks: 16 kHz waveforms and their complex spectrograms."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .transform import Transform

OURS = Transform()
N_FFT, HOP = OURS.n_fft, OURS.hop


def frame_count(samples: int) -> int:
    """Number of frames that `stft` gives for `samples` samples."""
    return 1 + samples // HOP


def utterance_frames(samples: int) -> int:
    """Number of frames that `analyse` gives for a whole utterance of `samples` samples."""
    return frame_count(max(samples, HOP + 1) + 2 * HOP)


def stft(waveform: Tensor) -> Tensor:
    """Complex spectrogram: 512-point periodic Hann window, hop 128, centred, onesided.

    Args:
        waveform: (batch, sample) at 16 kHz, longer than 256 samples.

    Returns:
        (batch, 257, frame), with `1 + sample // 128` frames.

    Raises:
        ValueError: the waveform is too short for reflection padding.
    """
    samples = waveform.shape[-1]
    if samples <= N_FFT // 2:
        raise ValueError(f"{samples} samples are too few; the transform needs {N_FFT // 2 + 1}")
    return OURS.analyse(waveform)


def istft(spectrogram: Tensor, samples: int | None = None) -> Tensor:
    """Convert a spectrogram of `stft` back to a waveform.

    Args:
        spectrogram: (batch, 257, frame), complex.
        samples: length of the result; None for `(frame - 1) * 128`.

    Returns:
        (batch, sample)
    """
    return OURS.synthesise(spectrogram, samples)


def analyse(waveform: Tensor) -> Tensor:
    """Spectrogram of whole utterances: reflection padding by 128 samples on both sides, then `stft`.

    Utterances of at most 128 samples are too short for that and are zero-padded first.

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
