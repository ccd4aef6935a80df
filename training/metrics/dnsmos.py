"""DNSMOS (Reddy et al. 2021 and 2022): opinion scores predicted from the signal alone.

P.835 (arXiv:2110.01763) scores speech, background and both; P.808 (arXiv:2010.15258) both. `onnxruntime` runs
the weights in `speechmos`, as ONNX files: `pip install 'ablate-speech[dnsmos]'`.
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
"""Length of the network's window; windows start a second apart."""

CALIBRATION = {
    "sig": (-0.08397278, 1.22083953, 0.0052439),
    "bak": (-0.13166888, 1.60915514, -0.39604546),
    "ovrl": (-0.06766283, 1.11546468, 0.04602535),
}
"""Polynomials from the network's outputs, in order, to opinion scores, as published with the weights."""
BANDS, POINTS, HOP = 120, 321, 160
"""Of the mel spectrogram that P.808 reads."""


@cache
def _network(name: str = "sig_bak_ovr") -> Any:
    import onnxruntime

    package = find_spec("speechmos")
    assert package is not None
    assert package.origin is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    weights = Path(package.origin).parent / "dnsmos_models" / f"{name}.onnx"
    return onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])


def dnsmos(signal: NDArray[np.float64]) -> dict[str, float]:
    """Speech, background and overall opinion scores (1 to 5) of a signal (sample,) at 16 kHz, in [-1, 1].

    A signal is doubled until it has 9.01 s; the scores are means over windows. As in the published script, a
    window whose end falls a sample short in floating point is left out.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    network = _network()
    raw = [network.run(None, {"input_1": w[None].astype(np.float32)})[0][0] for w in _windows(signal)]
    return {
        part: float(np.polyval(polynomial, np.array(values)).mean())
        for (part, polynomial), values in zip(CALIBRATION.items(), zip(*raw, strict=True), strict=True)
    }


def dnsmos_p808(signal: NDArray[np.float64]) -> float:
    """The overall opinion score (1 to 5) of P.808, of the same windows; see `dnsmos`."""
    network = _network("model_v8")
    scores = [network.run(None, {"input_1": mel_levels(w[:-HOP])[None]})[0][0, 0] for w in _windows(signal)]
    return float(np.mean(scores))


def _windows(signal: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    length = int(SECONDS * RATE)
    while len(signal) < length:
        signal = np.concatenate([signal, signal])
    count = int(len(signal) // RATE - SECONDS) + 1
    windows = [signal[i * RATE : int((i + SECONDS) * RATE)] for i in range(count)]
    return [window for window in windows if len(window) == length]


def mel_levels(signal: NDArray[np.float64]) -> NDArray[np.float32]:
    """Levels `(frame, band)` of a mel spectrogram in dB below its largest, down to 80, as `(dB + 40) / 40`.

    Slaney's mel scale and areas, periodic Hann windows, centred in a zero-padded signal.
    """
    padded = np.pad(signal.astype(np.float32), POINTS // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, POINTS)[::HOP]
    powers = np.square(np.abs(np.fft.rfft(frames * np.hanning(POINTS + 1)[:-1])))
    mel = powers @ _mel_bands().T
    levels = 10 * np.log10(np.maximum(mel, 1e-10) / max(mel.max(), 1e-10))
    return ((np.maximum(levels, levels.max() - 80) + 40) / 40).astype(np.float32)


@cache
def _mel_bands() -> NDArray[np.float64]:
    """Triangles `(band, bin)` of equal area, linear below 1 kHz and logarithmic above (Slaney 1998)."""
    top = 15 + np.log(RATE / 2 / 1000) / (np.log(6.4) / 27)
    mel = np.linspace(0, top, BANDS + 2)
    edges = np.where(mel < 15, 200 / 3 * mel, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)))
    bins = np.fft.rfftfreq(POINTS, 1 / RATE)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
