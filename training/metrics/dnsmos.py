"""DNSMOS P.835 (Reddy et al. 2022, arXiv:2110.01763): opinion scores predicted from the signal alone.

The weights are an ONNX file in `speechmos`, which `onnxruntime` runs: `pip install 'ablate[dnsmos]'`.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
SECONDS = 9.01
"""Length of a window that the network judges; windows start a second apart."""

CALIBRATION = {
    "sig": (-0.08397278, 1.22083953, 0.0052439),
    "bak": (-0.13166888, 1.60915514, -0.39604546),
    "ovrl": (-0.06766283, 1.11546468, 0.04602535),
}
"""Polynomials from the network's outputs to opinion scores, as published with the weights."""


@cache
def _network() -> Any:
    import onnxruntime

    package = find_spec("speechmos")
    assert package is not None
    assert package.origin is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    weights = Path(package.origin).parent / "dnsmos_models" / "sig_bak_ovr.onnx"
    return onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])


def dnsmos(signal: NDArray[np.float64]) -> dict[str, float]:
    """Speech, background and overall opinion scores (1 to 5) of a signal.

    A signal shorter than 9.01 s is doubled until it is not; the scores are means over windows. As in the
    published script, a window whose end falls a sample short in floating point is left out.

    Args:
        signal: (sample,) at 16 kHz, in [-1, 1].

    Returns:
        `sig`, `bak`, `ovrl`.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    network = _network()
    length = int(SECONDS * RATE)
    while len(signal) < length:
        signal = np.concatenate([signal, signal])
    count = int(len(signal) // RATE - SECONDS) + 1
    windows = [signal[i * RATE : int((i + SECONDS) * RATE)] for i in range(count)]
    windows = [window for window in windows if len(window) == length]
    raw = [network.run(None, {"input_1": window[None].astype(np.float32)})[0][0] for window in windows]
    return {
        part: float(np.polyval(CALIBRATION[part], np.array(values)).mean())
        for part, values in zip(("sig", "bak", "ovrl"), zip(*raw, strict=True), strict=True)
    }
