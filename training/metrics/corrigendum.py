"""Wideband PESQ with Corrigendum 2 (03/18) of P.862, which the `pesq` package lacks.

The corrigendum only scales the numerator of the wideband input filter by 0.251188. The package keeps that
filter as five numbers of its C library, so the corrected metric runs the same code with three of them scaled.
Each call restores the package's own values.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CDLL, Array, c_float
from functools import cache

import numpy as np

FILTER = "WB_InIIR_Hsos_16k"
"""The numerator (three numbers) and denominator (two) of the wideband input filter at 16 kHz."""
VALUES = (2.740825891494751, -5.481651782989502, 2.740825891494751, -1.9444776773452759, 0.9459779262542725)
"""The filter of pesq 0.0.4."""
SCALE = 0.251188
_lock = threading.Lock()


@cache
def _found() -> tuple[Array[c_float] | None, str]:
    """The filter in the loaded library, or why it cannot be used."""
    try:
        from pesq import cypesq

        numbers = (c_float * 5).in_dll(CDLL(cypesq.__file__), FILTER)
    except (ImportError, OSError, ValueError) as error:
        return None, f"the wideband filter of this build of the package pesq cannot be read ({error})"
    if tuple(numbers) != VALUES:
        what = "the wideband filter of this build of the package pesq is not the expected one"
        return None, f"{what}: {[*numbers]}"
    return numbers, ""


def missing() -> str | None:
    """Why the corrected metric is unavailable; None if it is available."""
    return _found()[1] or None


@contextmanager
def input_filter(corrected: bool) -> Iterator[None]:
    """Use `pesq` with or without the corrigendum inside the block; one thread at a time.

    Raises:
        ValueError: the corrected filter is requested, but the library has no such filter or another one.
    """
    with _lock:
        if not corrected:
            yield
            return
        numbers, reason = _found()
        if numbers is None:
            raise ValueError(reason)
        try:
            for index in range(3):
                numbers[index] = float(np.float32(SCALE * np.float64(VALUES[index])))
            yield
        finally:
            for index, value in enumerate(VALUES):
                numbers[index] = value
