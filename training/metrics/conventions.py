"""The same audio under the conventions of published code: why a number differs from a paper's.

Each entry of `CONVENTIONS` changes one habit of evaluation scripts and keeps this project's for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..audio import SAMPLE_RATE, FilePair, read_mono, resample
from .pool import MetricPool

if TYPE_CHECKING:
    from .scores import Scored

Wave = NDArray[np.float64]
Resampler = Callable[[Wave, int], Wave]


def _soxr(quality: str, to: int = SAMPLE_RATE) -> Resampler:
    def resampled(wave: Wave, rate: int) -> Wave:
        import soxr

        return soxr.resample(wave, rate, to, quality=quality)

    return resampled


def _polyphase(wave: Wave, rate: int) -> Wave:
    from scipy.signal import resample_poly

    common = gcd(rate, SAMPLE_RATE)
    return resample_poly(wave, SAMPLE_RATE // common, rate // common)


def _fourier(wave: Wave, rate: int) -> Wave:
    from scipy.signal import resample as resample_fourier

    return resample_fourier(wave, round(len(wave) * SAMPLE_RATE / rate))


def _hann_sinc(wave: Wave, rate: int) -> Wave:
    """`torchaudio.functional.resample` as documented: a Hann-windowed sinc, roll-off 0.99, 6 zero crossings a
    side."""
    from scipy.signal import upfirdn

    common = gcd(rate, SAMPLE_RATE)
    up, down = SAMPLE_RATE // common, rate // common
    cutoff = 0.99 * min(up, down)
    half = math.ceil(6 * up * down / cutoff)
    at = np.arange(-half, half + 1) / (up * down) * cutoff
    kernel = np.sinc(at) * np.cos(np.pi * np.clip(at, -6, 6) / 12) ** 2 * cutoff / down
    length = math.ceil(len(wave) * up / down)
    before = -half % down
    full = upfirdn(np.concatenate([np.zeros(before), kernel]), wave, up, down)
    return full[(half + before) // down :][:length]


def _no_filter(wave: Wave, rate: int) -> Wave:
    return wave[:: rate // SAMPLE_RATE]


def _as_int16(wave: Wave) -> Wave:
    return np.clip(np.round(wave * 32_768), -32_768, 32_767) / 32_768


def _to_peak(wave: Wave) -> Wave:
    return wave / max(float(np.abs(wave).max(initial=0.0)), 1e-12)


@dataclass(frozen=True)
class Convention:
    """A habit of evaluation code.

    Attributes:
        metric: the one it measures.
        ours: the metric that it replaces.
        resampler: of files at another rate than 16 kHz.
        change: of the enhanced signal at 16 kHz.
        both: change the clean signal too.
        value: from the metric to the printed number.
        by_seconds: the mean weights files by their length.
        when: whether it applies to files at a rate, in Hz.
    """

    habit: str
    metric: str = "pesq_wb"
    ours: str = "pesq_wb"
    resampler: Resampler = resample
    change: Callable[[Wave], Wave] = lambda wave: wave
    both: bool = False
    value: Callable[[float], float] = float
    by_seconds: bool = False
    when: Callable[[int], bool] = lambda rate: True

    def signals(self, clean: Wave, enhanced: Wave, rate: int) -> tuple[Wave, Wave]:
        """The signals to measure, `(sample,)` each."""
        clean, enhanced = self.resampler(clean, rate), self.resampler(enhanced, rate)
        return self.change(clean) if self.both else clean, self.change(enhanced)


def _raw(value: float) -> float:
    """The raw P.862 score that gives a MOS-LQO of P.862.1."""
    return (4.6607 - math.log((4.999 - value) / (value - 0.999))) / 1.4945


def _other(rate: int) -> bool:
    return rate != SAMPLE_RATE


def _multiple(rate: int) -> bool:
    return rate > SAMPLE_RATE and rate % SAMPLE_RATE == 0


CONVENTIONS: tuple[Convention, ...] = (
    Convention("P.862.2 with Corrigendum 2 (pesqc2, newer standard code)", metric="pesq_wb_c2"),
    Convention("narrow band, MOS-LQO of P.862.1", metric="pesq_nb"),
    Convention("narrow band, raw score of P.862", metric="pesq_nb", value=_raw),
    Convention("resampled by soxr VHQ", resampler=_soxr("VHQ"), when=_other),
    Convention("resampled by soxr LQ", resampler=_soxr("LQ"), when=_other),
    Convention("resampled by scipy.signal.resample_poly", resampler=_polyphase, when=_other),
    Convention("resampled by scipy.signal.resample", resampler=_fourier, when=_other),
    Convention("resampled by torchaudio's default", resampler=_hann_sinc, when=_other),
    Convention("every n-th sample, without a filter", resampler=_no_filter, when=_multiple),
    Convention(
        "the rate is not read: samples taken for 16 kHz", resampler=lambda wave, rate: wave, when=_multiple
    ),
    Convention("both rounded to 16 bits", change=_as_int16, both=True),
    Convention("enhanced clipped to [-1, 1]", change=lambda wave: np.clip(wave, -1, 1)),
    Convention("enhanced at peak 1, clean as it is", change=_to_peak),
    Convention("both at peak 1", change=_to_peak, both=True),
    Convention("mean over seconds, not files", by_seconds=True),
    Convention("ESTOI in place of STOI", metric="estoi", ours="stoi"),
    Convention("composite of a port fed with floats", metric="csig_ports", ours="csig"),
    Convention("composite of a port fed with floats", metric="cbak_ports", ours="cbak"),
    Convention("composite of a port fed with floats", metric="covl_ports", ours="covl"),
)
OURS = ("pesq_wb", "stoi", "csig", "cbak", "covl")


@dataclass(frozen=True)
class Explained:
    """A convention's mean beside ours, over the files that both can score."""

    habit: str
    metric: str
    ours: float
    value: float
    files: int

    @property
    def difference(self) -> float:
        return self.value - self.ours


def explain(pairs: Iterable[FilePair], pool: MetricPool) -> list[Explained]:
    """Measure pairs of files under every applicable convention; memory holds a few pairs at a time.

    Raises:
        soundfile.LibsndfileError: a file cannot be read.
    """
    rows: dict[Convention, list[tuple[float, float, float]]] = {}
    usual: dict[str, float] = {}
    for (convention, seconds), scored in pool.in_order(_submitted(pairs, pool)):
        if convention is None:
            usual = scored.values
            continue
        ours, theirs = usual[convention.ours], scored.values[convention.metric]
        if math.isfinite(ours) and math.isfinite(theirs):
            weight = seconds if convention.by_seconds else 1.0
            rows.setdefault(convention, []).append((weight, ours, convention.value(theirs)))
    return [_mean(convention, rows[convention]) for convention in CONVENTIONS if convention in rows]


def _submitted(
    pairs: Iterable[FilePair], pool: MetricPool
) -> Iterator[tuple[tuple[Convention | None, float], Future[Scored]]]:
    """Each pair with its seconds: first under our conventions (None), then under each other one."""
    for pair in pairs:
        (clean, rate, _), (other, its_rate, _) = (read_mono(p, "float64") for p in (pair.clean, pair.other))
        enhanced = other if rate == its_rate else _soxr("HQ", rate)(other, its_rate)
        length = min(len(clean), len(enhanced))
        clean, enhanced, seconds = clean[:length], enhanced[:length], length / rate
        yield (None, seconds), pool.submit(clean, enhanced, OURS, sample_rate=rate)
        for convention in CONVENTIONS:
            if convention.when(rate):
                signals = convention.signals(clean, enhanced, rate)
                yield (convention, seconds), pool.submit(*signals, (convention.metric,))


def _mean(convention: Convention, rows: list[tuple[float, float, float]]) -> Explained:
    weights, ours, theirs = zip(*rows, strict=True)
    mean = float(np.average(theirs, weights=weights))
    return Explained(convention.habit, convention.metric, float(np.mean(ours)), mean, len(rows))
