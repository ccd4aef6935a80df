"""Whether two recordings belong together: their lag, and how certain it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ablate.models.errors import listed

from ..audio import SAMPLE_RATE
from ..files import locked
from ..rundir import read_json, write_json

if TYPE_CHECKING:
    from .cache import Report
    from .pairs import Pair

SECONDS = 10.0
"""Seconds of a pair that are compared."""
WHITENING = 0.7
"""The cross-spectrum is divided by its magnitude to this power: 0 is plain correlation, 1 GCC-PHAT (Knapp and
Carter 1976). This narrows the peak, so rooms and voices do not move it."""
LONGEST_LAG = 1.0
NEAR = 0.01
"""Seconds around a peak that belong to it; a smaller lag is not an error."""
SURE = 4.0
"""A peak this many times as high as the highest one elsewhere makes the lag certain."""
UNSURE = 2.0
CHANCE = 0.1
"""Correlation that unrelated recordings may have; below it no peak counts."""
UNLIKE = 0.25
"""Below this ratio and this correlation the recordings have nothing in common."""
SWAPPED_DB = 6.0
"""The pauses of the clean file must be this much louder than those of the noisy one."""
LEVEL_DB = 3.0
INTEGER_PEAK = 50.0
"""Floating-point samples above this were not scaled from integers."""


class Fit(NamedTuple):
    """How a recording matches its reference.

    Attributes:
        lag: seconds by which it comes later.
        height: of the correlation's peak, negative if the recording is inverted; 1: equal.
        ratio: of the peak to the highest one elsewhere.
        twice: it also matches without a lag, e.g. if the noise is speech that begins with the same words.
        correlation: coefficient of the two, without lag or at the lag, whichever is larger.
        gain: of the common part, in dB.
        floor: pauses of the reference, at that gain, over those of the recording, in dB.
        peak: largest magnitude of the two.
    """

    lag: float
    height: float
    ratio: float
    twice: bool
    correlation: float
    gain: float
    floor: float
    peak: float

    @property
    def sure(self) -> bool:
        return self.ratio >= SURE and self.correlation >= CHANCE

    @property
    def late(self) -> bool:
        """Whether the recording is certainly earlier or later."""
        return self.sure and abs(self.lag) > NEAR and not self.twice

    @property
    def swapped(self) -> bool:
        """Whether the reference is certainly the noisier one."""
        return self.sure and self.floor > SWAPPED_DB

    @property
    def weak(self) -> bool:
        return self.correlation < (UNLIKE if self.ratio < UNSURE else CHANCE)


def fit(reference: np.ndarray, recording: np.ndarray, rate: int = SAMPLE_RATE) -> Fit:
    """Compare a recording `(sample,)` with its reference `(sample,)`, from their first ten seconds."""
    from scipy import fft

    count = min(len(reference), len(recording), round(SECONDS * rate))
    a, b = (signal[:count].astype(np.float64) for signal in (reference, recording))
    if not all(signal.any() and np.isfinite(signal).all() for signal in (a, b)):
        return Fit(0.0, 0.0, 0.0, False, 1.0, 0.0, -np.inf, 0.0)
    a, b = a - a.mean(), b - b.mean()
    size = fft.next_fast_len(2 * count, real=True)
    cross = fft.rfft(b, size) * np.conj(fft.rfft(a, size))
    magnitude = np.abs(cross)
    white = cross / (magnitude**WHITENING + 1e-12 * magnitude.max() ** WHITENING + 1e-300)
    reach = min(count - 1, round(LONGEST_LAG * rate))
    values = np.roll(fft.irfft(white, size), reach)[: 2 * reach + 1]
    values /= np.abs(white).sum() * 2 / size + 1e-300
    top = int(np.abs(values).argmax())
    near = round(NEAR * rate)
    heights = np.abs(values)
    heights[max(0, top - near) : top + near + 1] = 0
    middle = slice(max(0, reach - near), reach + near + 1)
    in_place = heights[middle].max()
    heights[middle] = 0
    rest = heights.max(initial=1e-12)
    lag = top - reach
    in_common = abs(a @ b) / np.sqrt((a @ a) * (b @ b))
    a, b = (a[: count - lag], b[lag:]) if lag >= 0 else (a[-lag:], b[: count + lag])
    gain = abs(a @ b) / max(a @ a, 1e-300)
    return Fit(
        lag=lag / rate,
        height=float(values[top]),
        ratio=float(abs(values[top]) / max(rest, in_place)),
        twice=bool(in_place > UNSURE * rest),
        correlation=float(max(in_common, abs(a @ b) / max(np.sqrt((a @ a) * (b @ b)), 1e-300))),
        gain=_decibels(gain**2),
        floor=_decibels(gain**2 * _pauses(a, b, rate)),
        peak=float(max(np.abs(reference).max(), np.abs(recording).max())),
    )


def _pauses(reference: np.ndarray, recording: np.ndarray, rate: int) -> float:
    """Mean power of the quietest tenth of one signal's 20 ms frames over that of the other's, in frames with
    both."""
    size = max(1, rate // 50)
    whole = len(reference) // size * size
    powers = [np.square(x[:whole].reshape(-1, size)).mean(axis=1) for x in (reference, recording)]
    held = np.logical_and(*(power > 1e-10 * power.max(initial=0) for power in powers))
    if not held.any():
        return 1e-300
    tenth = max(1, int(held.sum()) // 10)
    quiet = [float(np.sort(power[held])[:tenth].mean()) for power in powers]
    return quiet[0] / quiet[1]


def _decibels(ratio: float) -> float:
    return float(10 * np.log10(max(ratio, 1e-30)))


def fits(pairs: Sequence[Pair], *, report: Report | None = None) -> list[Fit]:
    """`fit` of every pair, cached by the content of the pairs."""
    from .cache import in_threads

    if not pairs:
        return []
    content = "".join(f"{pair.clean_sha256} {pair.noisy_sha256}\n" for pair in pairs)
    key = sha256(f"2 {pairs[0].sample_rate}\n{content}".encode()).hexdigest()[:32]
    path = pairs[0].cache / "pair-fits" / f"{key}.json"
    with locked(path.with_suffix(".lock")):
        if (known := read_json(path)) is None:
            found = in_threads(lambda p: fit(p.clean, p.noisy, p.sample_rate), pairs, "comparing", report)
            write_json(path, known := list(found))
    return [Fit(*values) for values in known]


@dataclass(frozen=True)
class Wrong:
    """A kind of wrong pair: the problem, its files with measurements, the remedy, and whether it is
    certain."""

    what: str
    files: tuple[str, ...]
    remedy: str
    sure: bool

    def line(self, most: int) -> str:
        return f"{self.what}: {listed(self.files, most)}; {self.remedy}"


def wrong_pairs(pairs: Sequence[Pair], *, report: Report | None = None) -> list[Wrong]:
    """Problems in how the files of a corpus are paired, certain ones first."""
    found: dict[str, list[str]] = {}
    alone: list[int] = []
    for index, (pair, one) in enumerate(zip(pairs, fits(pairs, report=report), strict=True)):
        if one.late:
            found.setdefault("lag", []).append(f"{pair.name} ({delay(one.lag)})")
        if one.swapped:
            found.setdefault("swap", []).append(pair.name)
        if one.weak:
            alone.append(index)
        if one.sure and one.height < 0:
            found.setdefault("inverted", []).append(pair.name)
        if one.sure and abs(one.gain) > LEVEL_DB:
            found.setdefault("level", []).append(f"{pair.name} ({one.gain:+.0f} dB)")
        if one.peak > INTEGER_PEAK:
            found.setdefault("scale", []).append(f"{pair.name} (peak {one.peak:,.0f})")
    for count, index in enumerate(alone):
        if count < WEAKEST and (other := _partner(pairs, index)):
            found.setdefault("partner", []).append(f"{pairs[index].name} (matches {other})")
        else:
            found.setdefault("weak", []).append(pairs[index].name)
    return [
        Wrong(what.format(count=f"{len(found[kind]):,}"), tuple(found[kind]), remedy, sure)
        for kind, (what, remedy, sure) in KINDS.items()
        if kind in found
    ]


WEAKEST = 20
"""For this many dissimilar pairs the right partner is searched,"""
NEIGHBOURS = 3
"""up to this many places away in the order of names."""


def _partner(pairs: Sequence[Pair], index: int) -> str | None:
    """The neighbour whose clean file a noisy one certainly contains; the order wraps around at both ends."""
    noisy = pairs[index]
    for step in range(1, NEIGHBOURS + 1):
        for other in (pairs[(index + step) % len(pairs)], pairs[index - step]):
            if other is not noisy and fit(other.clean, noisy.noisy, noisy.sample_rate).sure:
                return other.name
    return None


KINDS = {
    "lag": ("{count} noisy files are earlier or later than their clean ones", "align or remove them", True),
    "swap": (
        "{count} clean files are noisier than their noisy ones",
        "clean and noisy are exchanged: rename the folders",
        True,
    ),
    "partner": ("{count} noisy files are paired with the wrong clean file", "rename them", True),
    "inverted": ("{count} noisy files are inverted", "multiply them by -1", False),
    "level": (
        "{count} noisy files and their clean ones have different levels",
        "scale clean and noisy alike",
        False,
    ),
    "scale": ("{count} pairs are not in [-1, 1]", "divide both files by 32,768", False),
    "weak": (
        "{count} noisy files hardly resemble their clean ones",
        "listen to some: the noise is very strong, or the clean file is wrong",
        False,
    ),
}
"""Kind -> problem, remedy, whether it is certain."""


def delay(seconds: float) -> str:
    """A lag in words."""
    return f"{abs(seconds) * 1000:.0f} ms {'later' if seconds > 0 else 'earlier'}"
