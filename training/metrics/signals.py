"""A pair of signals with intermediate results that several metrics share."""

from __future__ import annotations

import warnings
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..audio import SAMPLE_RATE
from .composite import PORTS_SCALE, Composite, composite, frames, llr, ssnr, wss
from .corrigendum import input_filter
from .distillmos import distillmos
from .dnsmos import dnsmos, dnsmos_p808
from .visqol import visqol

FRAME, FRAME_HOP = 512, 128


class Signals:
    """A pair at 16 kHz, `(sample,)` each, of equal length; `clean` is the reference."""

    def __init__(self, clean: NDArray[np.float64], enhanced: NDArray[np.float64]) -> None:
        self.clean = clean
        self.enhanced = enhanced

    def pesq(self, mode: str, corrected: bool = False) -> float:
        """MOS-LQO; `corrected`: with Corrigendum 2, which only affects the mode "wb"."""
        import pesq

        if not self.enhanced.any():
            raise ValueError("the enhanced signal is silent")
        try:
            with input_filter(corrected):
                return float(pesq.pesq(SAMPLE_RATE, self.clean, self.enhanced, mode))
        except pesq.NoUtterancesError:
            raise ValueError("PESQ finds no utterance in the signals") from None
        except pesq.BufferTooShortError:
            raise ValueError(f"{len(self.clean) / SAMPLE_RATE:.3f} s is too short for PESQ (1/4 s)") from None

    @cached_property
    def pesq_wb(self) -> float:
        return self.pesq("wb")

    def stoi(self, extended: bool) -> float:
        from pystoi import stoi

        with warnings.catch_warnings(), _FixedRandom():
            warnings.simplefilter("error", RuntimeWarning)
            try:
                return float(stoi(self.clean, self.enhanced, SAMPLE_RATE, extended=extended))
            except (RuntimeWarning, ValueError, IndexError):
                raise ValueError(
                    f"fewer than 30 frames (0.4 s) with speech in {len(self.clean) / SAMPLE_RATE:.3f} s: "
                    "too few for STOI"
                ) from None

    @cached_property
    def frames(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return frames(self.clean), frames(self.enhanced)

    @cached_property
    def ssnr(self) -> float:
        return ssnr(*self.frames)

    @cached_property
    def llr(self) -> float:
        return llr(*self.frames)

    @cached_property
    def composite(self) -> Composite:
        return composite(self.pesq_wb, self.llr, wss(*self.frames), self.ssnr)

    @cached_property
    def composite_of_ports(self) -> Composite:
        """The composite as computed by scripts that feed floats to a port for 16-bit samples."""
        clean, enhanced = (PORTS_SCALE * frames for frames in self.frames)
        return composite(self.pesq_wb, self.llr, wss(clean, enhanced), self.ssnr)

    @cached_property
    def si_sdr(self) -> float:
        """Scale-invariant SDR in dB (Le Roux et al. 2019, without removal of the mean), at most 156."""
        projection = (self.enhanced * self.clean).sum() / np.square(self.clean).sum()
        target = projection * self.clean
        signal, noise = np.square(target).sum(), np.square(self.enhanced - target).sum()
        if not signal:
            raise ValueError("the enhanced signal is silent or orthogonal to the reference")
        return float(10 * np.log10(signal / (noise + np.finfo(np.float64).eps * signal)))

    @cached_property
    def spectra(self) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        """Both as `(frame, bin)`: Hann windows of 512 samples, hop 128."""
        window = np.hanning(FRAME + 1)[:-1]

        def spectrum(signal: NDArray[np.float64]) -> NDArray[np.complex128]:
            padded = np.pad(signal, (0, max(0, FRAME - len(signal))))
            framed = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::FRAME_HOP]
            return np.fft.rfft(framed * window)

        return spectrum(self.clean), spectrum(self.enhanced)

    @cached_property
    def log_spectral_distance(self) -> float:
        """Root mean square over bins of the difference of log power spectra in dB, mean over frames.

        Gray and Markel 1976. Powers are floored 100 dB below the reference's strongest bin.
        """
        powers = [np.square(np.abs(spectrum)) for spectrum in self.spectra]
        floor = 1e-10 * powers[0].max()
        clean, enhanced = (10 * np.log10(np.maximum(power, floor)) for power in powers)
        return float(np.sqrt(np.square(clean - enhanced).mean(axis=1)).mean())

    @cached_property
    def phase_distance(self) -> float:
        """Angle between the spectra in degrees, weighted by the reference's magnitude; 90 for noise."""
        clean, enhanced = self.spectra
        if not np.abs(enhanced).any():
            raise ValueError("the enhanced signal is silent")
        angle = np.degrees(np.abs(np.angle(clean * enhanced.conj())))
        return float((np.abs(clean) * angle).sum() / np.abs(clean).sum())

    @cached_property
    def dnsmos(self) -> dict[str, float]:
        return dnsmos(self.enhanced)

    @cached_property
    def dnsmos_p808(self) -> float:
        return dnsmos_p808(self.enhanced)

    @cached_property
    def distillmos(self) -> float:
        return distillmos(self.enhanced)

    @cached_property
    def visqol(self) -> float:
        return visqol(self.clean, self.enhanced)


class _FixedRandom:
    """Fixes NumPy's global stream, from which pystoi's ESTOI adds noise of 1e-16, and restores it."""

    def __enter__(self) -> None:
        self.state = np.random.get_state()
        np.random.seed(0)

    def __exit__(self, *_: object) -> None:
        np.random.set_state(self.state)
