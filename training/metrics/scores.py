"""One pair of signals, nine measures; a measure that cannot be taken is missing with its reason."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ablate.models.errors import InputError

from ..audio import SAMPLE_RATE, resample
from .registry import METRICS, find_metric, usual


class Scored(NamedTuple):
    """Values by metric, NaN where one failed, and the reasons of the failed ones.

    `broken` names the failed ones that the reference against itself does not fail: there the enhanced signal
    is at fault, not the reference.
    """

    values: dict[str, float]
    errors: dict[str, str]
    broken: tuple[str, ...] = ()

    def with_floors(self) -> dict[str, float]:
        """The values, a broken enhanced signal's at the metric's floor; NaN is the reference's fault."""
        return self.values | {name: METRICS[name].floor for name in self.broken}

    def reasons(self) -> str | None:
        """`metric, metric: reason; ...` of what failed, equal reasons once."""
        metrics_of: dict[str, list[str]] = defaultdict(list)
        for name, reason in self.errors.items():
            metrics_of[reason].append(name)
        return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in metrics_of.items()) or None


class Signals:
    """A pair at 16 kHz, and what several measures of it share.

    Args:
        clean: (sample,), the reference.
        enhanced: (sample,), of the same length.
    """

    def __init__(self, clean: NDArray[np.float64], enhanced: NDArray[np.float64]) -> None:
        self.clean = clean
        self.enhanced = enhanced

    def pesq(self, mode: str) -> float:
        import pesq

        if not self.enhanced.any():
            raise ValueError("the enhanced signal is silent")
        try:
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
        from .composite import frames

        return frames(self.clean), frames(self.enhanced)

    @cached_property
    def ssnr(self) -> float:
        from .composite import ssnr

        return ssnr(*self.frames)

    @cached_property
    def composite(self) -> Any:
        from .composite import composite, llr, wss

        return composite(self.pesq_wb, llr(*self.frames), wss(*self.frames), self.ssnr)

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
        """Both as `(frame, bin)`: Hann windows of 512 samples, each 128 after the one before."""
        window = np.hanning(FRAME + 1)[:-1]

        def spectrum(signal: NDArray[np.float64]) -> NDArray[np.complex128]:
            padded = np.pad(signal, (0, max(0, FRAME - len(signal))))
            framed = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::FRAME_HOP]
            return np.fft.rfft(framed * window)

        return spectrum(self.clean), spectrum(self.enhanced)

    @cached_property
    def log_spectral_distance(self) -> float:
        """Root mean square over bins of the difference of log power spectra in dB, mean over frames.

        Gray and Markel 1976. Powers under 100 dB below the reference's strongest bin count as that.
        """
        powers = [np.square(np.abs(spectrum)) for spectrum in self.spectra]
        floor = 1e-10 * powers[0].max()
        clean, enhanced = (10 * np.log10(np.maximum(power, floor)) for power in powers)
        return float(np.sqrt(np.square(clean - enhanced).mean(axis=1)).mean())

    @cached_property
    def phase_distance(self) -> float:
        """Angle between the spectra in degrees, weighted with the reference's magnitude; 90 for noise."""
        clean, enhanced = self.spectra
        if not np.abs(enhanced).any():
            raise ValueError("the enhanced signal is silent")
        angle = np.degrees(np.abs(np.angle(clean * enhanced.conj())))
        return float((np.abs(clean) * angle).sum() / np.abs(clean).sum())

    @cached_property
    def dnsmos(self) -> dict[str, float]:
        from .dnsmos import dnsmos

        return dnsmos(self.enhanced)


FRAME, FRAME_HOP = 512, 128


def score(clean: Any, enhanced: Any, sample_rate: int) -> dict[str, float]:
    """All measures of one pair; NaN where one cannot be taken (`score_with_errors` tells why).

    Args:
        clean: (sample,), the reference, in [-1, 1] or of an integer type.
        enhanced: (sample,), of the same length.
        sample_rate: of both, in Hz. Other rates than 16 kHz are resampled; what was sampled at a lower
            rate has an empty upper band, so its scores do not compare with those of 16 kHz recordings.

    Returns:
        pesq_wb, pesq_nb (MOS-LQO), stoi, estoi, csig, cbak, covl (1 to 5), ssnr, si_sdr (dB).

    Raises:
        InputError: the lengths differ, a signal is not one-dimensional, or the rate is not positive.
    """
    return score_with_errors(clean, enhanced, sample_rate).values


def score_with_errors(
    clean: Any, enhanced: Any, sample_rate: int, metrics: Iterable[str] | None = None
) -> Scored:
    """Like `score`, for some metrics (None: all), with the reason of each one that failed.

    Raises:
        InputError: as `score`, or a metric is unknown.
    """
    names = check_metrics(metrics)
    if sample_rate <= 0:
        raise InputError(f"sample rate {sample_rate} is not positive")
    clean, enhanced = _waveform(clean, "clean"), _waveform(enhanced, "enhanced")
    if len(clean) != len(enhanced):
        raise InputError(f"{len(clean)} clean and {len(enhanced)} enhanced samples; they must be as many")
    scored = _measure(clean, enhanced, sample_rate, names)
    if not scored.errors:
        return scored
    itself = _measure(clean, clean, sample_rate, tuple(scored.errors))
    return scored._replace(broken=tuple(name for name in scored.errors if name not in itself.errors))


def _measure(
    clean: NDArray[np.float64], enhanced: NDArray[np.float64], sample_rate: int, names: tuple[str, ...]
) -> Scored:
    if reason := _unusable(clean, enhanced):
        return failed(reason, names)
    signals = Signals(resample(clean, sample_rate), resample(enhanced, sample_rate))
    values, errors = {}, {}
    for name in names:
        try:
            values[name] = METRICS[name].measure(signals)
            if not math.isfinite(values[name]):
                raise ValueError(f"{METRICS[name].label} is {values[name]}")
        except Exception as error:  # one failed measure must not cost the others
            values[name], errors[name] = float("nan"), f"{error}" or type(error).__name__
    return Scored(values, errors)


def failed(reason: str, metrics: Iterable[str] | None = None) -> Scored:
    """The result of a pair of which nothing could be measured."""
    names = check_metrics(metrics)
    return Scored({name: float("nan") for name in names}, dict.fromkeys(names, reason))


def check_metrics(metrics: Iterable[str] | None) -> tuple[str, ...]:
    """The names as a tuple, the usual ones for None; InputError on an unknown one."""
    names = usual() if metrics is None else tuple(metrics)
    for name in names:
        find_metric(name)
    return names


def _waveform(signal: Any, name: str) -> NDArray[np.float64]:
    array = np.asarray(signal)
    if array.ndim != 1:
        raise InputError(f"the {name} signal has shape {array.shape}; one channel (sample,) is needed")
    if array.dtype.kind in "iu":
        return array.astype(np.float64) / (float(np.iinfo(array.dtype).max) + 1)
    return array.astype(np.float64)


def _unusable(clean: NDArray[np.float64], enhanced: NDArray[np.float64]) -> str | None:
    for signal, name in ((clean, "reference"), (enhanced, "enhanced signal")):
        if not len(signal):
            return f"the {name} is empty"
        wrong = len(signal) - int(np.isfinite(signal).sum())
        if wrong:
            return f"the {name} has {wrong} non-finite samples"
    return None if clean.any() else "the reference is silent"


class _FixedRandom:
    """ESTOI of pystoi adds noise of 1e-16 from NumPy's global stream: fix it, and put the stream back."""

    def __enter__(self) -> None:
        self.state = np.random.get_state()
        np.random.seed(0)

    def __exit__(self, *_: object) -> None:
        np.random.set_state(self.state)
