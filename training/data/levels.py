"""Levels of recordings."""

from __future__ import annotations

import numpy as np

FRAME = 320
"""20 ms at 16 kHz."""
ACTIVE_RANGE = 30.0
"""Frames this many dB below the loudest one count as pauses."""


def active_power(audio: np.ndarray) -> float:
    """Mean power of the frames of `(sample,)` speech at 16 kHz that are not pauses."""
    whole = max(FRAME, len(audio) // FRAME * FRAME)
    frames = np.resize(audio, whole) if len(audio) < FRAME else audio[:whole]
    power = (frames.astype(np.float64).reshape(-1, FRAME) ** 2).mean(axis=1)
    return float(power[power >= power.max() * 10 ** (-ACTIVE_RANGE / 10)].mean())


def snr(clean: np.ndarray, noisy: np.ndarray) -> float:
    """Power of the active speech over that of `noisy - clean`, in dB; infinite if they are equal."""
    noise = float(np.mean((noisy.astype(np.float64) - clean) ** 2))
    return 10 * float(np.log10(active_power(clean) / noise)) if noise else float("inf")
