"""Scores one pair of signals; a metric that cannot be taken is missing, with its reason."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ablate.models.errors import InputError

from ..audio import resample
from .registry import METRICS, check_available, find_metric, usual
from .signals import Signals

MOST_SECONDS = 600.0
"""Longest recording that is measured: ten minutes take 2 GB."""


class Scored(NamedTuple):
    """Values by metric, NaN where one failed, and the reasons of the failed ones.

    `broken` names failed ones for which the reference against itself succeeds: the enhanced signal is at
    fault.
    """

    values: dict[str, float]
    errors: dict[str, str]
    broken: tuple[str, ...] = ()

    def with_floors(self) -> dict[str, float]:
        """The values, with the metric's floor for a broken enhanced signal; NaN: the reference is at
        fault."""
        return self.values | {name: METRICS[name].floor for name in self.broken}

    def reasons(self) -> str | None:
        """`metric, metric: reason; ...` of the failed ones, equal reasons once."""
        metrics_of: dict[str, list[str]] = defaultdict(list)
        for name, reason in self.errors.items():
            metrics_of[reason].append(name)
        return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in metrics_of.items()) or None

    def failures(self) -> dict[str, str | None]:
        """For a row: `error` (the reasons), `broken` (the metrics at their floor), None without any."""
        return {"error": self.reasons(), "broken": ", ".join(self.broken) or None}


def score(clean: Any, enhanced: Any, sample_rate: int) -> dict[str, float]:
    """All usual metrics of one pair; NaN if one cannot be taken (`score_with_errors` gives the reason).

    Args:
        clean: (sample,), the reference, in [-1, 1] or of an integer type.
        enhanced: (sample,), of the same length.
        sample_rate: of both, in Hz. Other rates than 16 kHz are resampled; a lower rate leaves the upper band
            empty, so its scores do not compare with those of 16 kHz recordings.

    Returns:
        pesq_wb, pesq_nb (MOS-LQO), stoi, estoi, csig, cbak, covl (1 to 5), ssnr, si_sdr (dB).

    Raises:
        InputError: the lengths differ, a signal is not one-dimensional, or the rate is not positive.
    """
    return score_with_errors(clean, enhanced, sample_rate).values


def score_with_errors(
    clean: Any, enhanced: Any, sample_rate: int, metrics: Iterable[str] | None = None
) -> Scored:
    """Like `score`, for the given metrics (None: the usual ones), with the reason of each failure.

    Raises:
        InputError: as `score`, or a metric is unknown.
    """
    names = check_metrics(metrics)
    if sample_rate <= 0:
        raise InputError(f"sample rate {sample_rate} is not positive")
    clean, enhanced = _waveform(clean, "clean"), _waveform(enhanced, "enhanced")
    if len(clean) != len(enhanced):
        raise InputError(f"{len(clean)} clean and {len(enhanced)} enhanced samples; the counts must be equal")
    if len(clean) > MOST_SECONDS * sample_rate:
        minutes = len(clean) / sample_rate / 60
        return failed(
            f"it is {minutes:.0f} min long, but at most {MOST_SECONDS / 60:.0f} min can be scored; split it",
            names,
        )
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
            check_available([name])
            values[name] = METRICS[name].measure(signals)
            if not math.isfinite(values[name]):
                raise ValueError(f"{METRICS[name].label} is {values[name]}")
        except (MemoryError, OSError):  # the machine's fault, which must not become a score
            raise
        except Exception as error:  # one failed measure must not cost the others
            values[name], errors[name] = float("nan"), f"{error}" or type(error).__name__
    return Scored(values, errors)


def failed(reason: str, metrics: Iterable[str] | None = None) -> Scored:
    """The result of a pair without any measurable metric."""
    names = check_metrics(metrics)
    return Scored({name: float("nan") for name in names}, dict.fromkeys(names, reason))


def check_metrics(metrics: Iterable[str] | None) -> tuple[str, ...]:
    """The names as a tuple, the usual ones for None; InputError if one is unknown."""
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
