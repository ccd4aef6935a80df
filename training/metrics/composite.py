"""The composite measures of Hu and Loizou, with their components, for 16 kHz speech.

Y. Hu and P. Loizou, "Evaluation of objective quality measures for speech enhancement", IEEE TASL 16(1), 2008.
Coefficients and details follow Loizou's `composite.m` and its Python ports, which differ from the paper.
Signals are in [-1, 1].

Two conventions exist. Loizou's computes WSS from the signals as they are. A widely used Python port divides
samples by 32,768 inside its WSS; scripts that pass floats in [-1, 1] to it get too small a WSS and too high
ratings. `PORTS_SCALE` reproduces theirs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FRAME = 480
"""30 ms."""
SKIP = 120
"""7.5 ms."""
LPC_ORDER = 16
PORTS_SCALE = 1 / 32_768
"""Extra factor by which float-fed ports scale frames for WSS."""
KEPT = 0.95
"""LLR and WSS are means over this share of the frames, lowest distances first."""
SNR_RANGE = (-10.0, 35.0)
KLATT_GLOBAL, KLATT_LOCAL = 20.0, 1.0
FLOOR_DB = -100.0
EPS = float(np.finfo(np.float64).eps)

CENTRES = np.array(
    [
        *(50, 120, 190, 260, 330, 400, 470, 540, 617.372, 703.378, 798.717, 904.128, 1020.38, 1148.30),
        *(1288.72, 1442.54, 1610.7, 1794.16, 1993.93, 2211.08, 2446.71, 2701.97, 2978.04, 3276.17, 3597.63),
    ]
)
BANDWIDTHS = np.array(
    [
        *(70, 70, 70, 70, 70, 70, 70, 77.3724, 86.0056, 95.3398, 105.411, 116.256, 127.914, 140.423),
        *(153.823, 168.154, 183.457, 199.776, 217.153, 235.631, 255.255, 276.072, 298.126, 321.465),
        346.136,
    ]
)
"""Centre frequencies and bandwidths of the 25 critical bands in Hz."""


class Composite(NamedTuple):
    """Predicted ratings in [1, 5] of signal, background and overall quality."""

    csig: float
    cbak: float
    covl: float


def composite(pesq_wb: float, llr: float, wss: float, ssnr: float) -> Composite:
    """CSIG, CBAK and COVL from wide-band PESQ, the means of LLR and WSS, and SSNR in dB."""
    csig = 3.093 - 1.029 * llr + 0.603 * pesq_wb - 0.009 * wss
    cbak = 1.634 + 0.478 * pesq_wb - 0.007 * wss + 0.063 * ssnr
    covl = 1.594 + 0.805 * pesq_wb - 0.512 * llr - 0.007 * wss
    return Composite(*(min(max(value, 1.0), 5.0) for value in (csig, cbak, covl)))


def frames(signal: Array) -> Array:
    """Windowed frames (frame, 480) of a signal (sample,).

    There are `(samples - 480) // 120`: the followed code leaves out the last full frame.

    Raises:
        ValueError: there is no frame.
    """
    count = (len(signal) - FRAME) // SKIP
    if count < 1:
        raise ValueError(f"{len(signal)} samples are less than one frame; {FRAME + SKIP} are needed")
    views = np.lib.stride_tricks.sliding_window_view(signal, FRAME)[::SKIP][:count]
    return views * _window()


def ssnr(clean: Array, enhanced: Array) -> float:
    """Segmental SNR in dB of frames (frame, 480): mean over frames, each clipped to [-10, 35]."""
    signal = np.square(clean).sum(axis=1)
    noise = np.square(clean - enhanced).sum(axis=1)
    decibels = 10 * np.log10(signal / (noise + EPS) + EPS)
    return float(np.clip(decibels, *SNR_RANGE).mean())


def llr(clean: Array, enhanced: Array) -> float:
    """Log-likelihood ratio of linear predictors of order 16 of frames (frame, 480), mean over the lowest 95
    %.

    Raises:
        ValueError: no frame has a value (silence).
    """
    lags_clean, lags_enhanced = autocorrelation(clean), autocorrelation(enhanced)
    lag = np.arange(LPC_ORDER + 1)
    toeplitz = lags_clean[:, np.abs(lag[:, None] - lag)]
    with np.errstate(divide="ignore", invalid="ignore"):
        of_enhanced, of_clean = (
            np.einsum("fi,fij,fj->f", a, toeplitz, a)
            for a in (predictor(lags_enhanced), predictor(lags_clean))
        )
        distances = np.log(of_enhanced / of_clean)
    return _lowest_mean(distances, "LLR")


def wss(clean: Array, enhanced: Array) -> float:
    """Weighted spectral slope distance (Klatt 1982) over 25 critical bands of frames (frame, 480): mean over
    the lowest 95 %."""
    clean_db, enhanced_db = band_levels(clean), band_levels(enhanced)
    clean_slope, enhanced_slope = np.diff(clean_db, axis=1), np.diff(enhanced_db, axis=1)
    weights = (_klatt_weights(clean_db, clean_slope) + _klatt_weights(enhanced_db, enhanced_slope)) / 2
    distances = (weights * np.square(clean_slope - enhanced_slope)).sum(axis=1) / weights.sum(axis=1)
    return _lowest_mean(distances, "WSS")


def autocorrelation(signal: Array) -> Array:
    """Lags 0 to 16 of each frame: (frame, sample) -> (frame, 17)."""
    length = signal.shape[1]
    return np.stack(
        [np.einsum("fs,fs->f", signal[:, : length - k], signal[:, k:]) for k in range(LPC_ORDER + 1)], axis=1
    )


def predictor(lags: Array) -> Array:
    """Prediction-error filters (1, -a1, ..., -a16) by the Levinson-Durbin recursion, all frames at once.

    Lags (frame, 17) -> (frame, 17); NaN for a frame of silence.
    """
    filters = np.zeros_like(lags)
    filters[:, 0] = 1.0
    error = lags[:, 0].copy()
    for order in range(1, lags.shape[1]):
        reflection = np.einsum("fk,fk->f", filters[:, :order], lags[:, order:0:-1]) / error
        filters[:, 1 : order + 1] -= reflection[:, None] * filters[:, order - 1 :: -1][:, :order]
        error *= 1 - np.square(reflection)
    return filters


def band_levels(signal: Array) -> Array:
    """Levels in dB, at least -100, of the 25 critical bands: (frame, 480) -> (frame, 25)."""
    filters = _critical_bands()
    power = np.square(np.abs(np.fft.rfft(signal, 2 * filters.shape[1], axis=1)))[:, :-1]
    return 10 * np.log10(np.maximum(power @ filters.T, 10 ** (FLOOR_DB / 10)))


def nearest_peaks(levels: Array, slopes: Array) -> Array:
    """Level of the peak towards which each band rises.

    A rising slope is followed right up to the band before the last rise, any other left down to the first
    rise: the followed code stops one band short of the peak on the right. Levels (frame, 25) in dB and slopes
    (frame, 24), the differences of neighbours, -> (frame, 24).
    """
    rising, bands = slopes > 0, np.arange(slopes.shape[1])
    ends = np.pad(~rising[:, 1:], ((0, 0), (0, 1)), constant_values=True)
    begins = np.pad(rising[:, :-1], ((0, 0), (1, 0)))
    right = np.minimum.accumulate(np.where(ends, bands, bands[-1])[:, ::-1], axis=1)[:, ::-1]
    left = np.maximum.accumulate(np.where(begins, bands, 0), axis=1)
    return np.take_along_axis(levels, np.where(rising, right, left), axis=1)


def _klatt_weights(levels: Array, slopes: Array) -> Array:
    """Weights (frame, 24): large near the highest level of the frame and near the local peak."""
    below = levels[:, :-1]
    highest = levels.max(axis=1, keepdims=True)
    near_highest = KLATT_GLOBAL / (KLATT_GLOBAL + highest - below)
    near_local = KLATT_LOCAL / (KLATT_LOCAL + nearest_peaks(levels, slopes) - below)
    return near_highest * near_local


def _lowest_mean(distances: Array, name: str) -> float:
    """Mean of the lowest 95 %; frames without a value count as the highest."""
    kept = np.sort(distances)[: round(len(distances) * KEPT)]
    kept = kept[np.isfinite(kept)]
    if not len(kept):
        raise ValueError(f"{name} is defined in none of {len(distances)} frames: the signal is silent")
    return float(kept.mean())


@lru_cache(maxsize=1)
def _window() -> Array:
    return 0.5 * (1 - np.cos(2 * np.pi * np.arange(1, FRAME + 1) / (FRAME + 1)))


@lru_cache(maxsize=1)
def _critical_bands() -> Array:
    """Gaussian filters (25, 512) over the bins of a 1024-point transform, cut off below -30 dB."""
    bins = 512
    per_hertz = bins / 8000
    places = np.floor(CENTRES * per_hertz)[:, None]
    widths = (BANDWIDTHS * per_hertz)[:, None]
    gains = np.exp(-11 * np.square((np.arange(bins) - places) / widths)) * (
        BANDWIDTHS[0] / BANDWIDTHS[:, None]
    )
    return np.where(gains > np.exp(-30 / (2 * 2.303)), gains, 0.0)
