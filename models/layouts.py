"""Band layouts: how the bins of a spectrogram are divided, low to high. Needs no torch.

A layout maps a number of bands (None if the configuration does not give one) and a number of bins to the
bins of each band.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate, pairwise

from .errors import InputError

BINS = 257
"""Number of bins of a 512-point transform."""
NYQUIST = 8000.0

BSRNN = (2, *[3] * 10, *[8] * 12, *[16] * 7, 17)


def bsrnn(count: int | None, bins: int = BINS) -> tuple[int, ...]:
    """The 31 bands of BSRNN's public code; for other numbers of bins, bands at the same frequencies."""
    widths = _fixed("bsrnn", count, BSRNN)
    if bins == BINS:
        return widths
    edges = [0, *accumulate(widths)]
    return _between(
        _checked("bsrnn", len(widths), bins), lambda share: edges[round(share * len(widths))] / BINS, bins
    )


def one(count: int | None, bins: int = BINS) -> tuple[int, ...]:
    """A single band of all bins."""
    return _fixed("one", count, (bins,))


def uniform(count: int | None, bins: int = BINS) -> tuple[int, ...]:
    """Bands of equal width; if bins are left over, the upper bands are a bin wider."""
    count = _checked("uniform", count, bins)
    width, wider = divmod(bins, count)
    return (width,) * (count - wider) + (width + 1,) * wider


def mel(count: int | None, bins: int = BINS) -> tuple[int, ...]:
    """Bands of equal width in mel, 2595 log10(1 + f / 700) (O'Shaughnessy 1987)."""
    count = _checked("mel", count, bins)
    top = math.log10(1 + NYQUIST / 700)
    return _between(count, lambda share: 700 * (10 ** (share * top) - 1) / NYQUIST, bins)


def bark(count: int | None, bins: int = BINS) -> tuple[int, ...]:
    """Bands of equal width in Bark, 26.81 f / (1960 + f) - 0.53 (Traunmüller 1990)."""
    count = _checked("bark", count, bins)
    top = 26.81 * NYQUIST / (1960 + NYQUIST)
    return _between(count, lambda share: 1960 * share * top / (26.81 - share * top) / NYQUIST, bins)


def _between(count: int, place: Callable[[float], float], bins: int) -> tuple[int, ...]:
    """Bands of at least one bin, with edges at `place(band / count)`, where 0 to 1 spans all bins."""
    edges = [0]
    for band in range(1, count + 1):
        edge = round(place(band / count) * bins)
        edges.append(min(max(edge, edges[-1] + 1), bins - (count - band)))
    return tuple(high - low for low, high in pairwise(edges))


def _fixed(name: str, count: int | None, widths: tuple[int, ...]) -> tuple[int, ...]:
    if count is not None:
        raise InputError(f"bands {name}:{count}: {name} always has {len(widths)} bands; write {name}")
    return widths


def _checked(name: str, count: int | None, bins: int) -> int:
    if count is None:
        raise InputError(f"bands {name} needs a number of bands, e.g. {name}:16")
    if not 1 <= count <= bins:
        raise InputError(f"bands {name}:{count} is out of range; use 1 to {bins} bands")
    return count
