"""ViSQOL (Hines et al. 2015; Chinen et al. 2020, arXiv:2004.09584) in speech mode, mapped by its lattice.

The package `visqol-python` reimplements Google's C++. On the pairs of that code's conformance tests it gives
3.315 for 3.313, 1.196 for 1.193 and 4.5055 for 4.5056.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio import SAMPLE_RATE


@cache
def _judge() -> Any:
    from visqol import VisqolApi

    judge = VisqolApi()
    judge.create(mode="speech", use_lattice_model=True)
    return judge


def visqol(reference: NDArray[np.float64], signal: NDArray[np.float64]) -> float:
    """Listening quality (1 to about 4.7) of a signal against its reference, (sample,) at 16 kHz.

    Raises:
        ImportError: visqol-python or its lattice's runtime is not installed.
    """
    return float(_judge().measure_from_arrays(reference, signal, sample_rate=SAMPLE_RATE).moslqo)
