"""Compiled loops of the causal convolution; arrays are `(row, time, channel)`, taps `(tap, channel)`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .kernels import MATH, ONE, ZERO, exp
from .parallel import cached_on_disk


def _convolve(x, taps, bias, t, out):
    """Compute one frame of the convolution, before SiLU."""
    count, dim = taps.shape
    for d in range(dim):
        out[d] = bias[d]
    for k in range(count):
        s = t - count + 1 + k
        if s >= 0:
            for d in range(dim):
                out[d] += taps[k, d] * x[s, d]


def _forward(start, stop, x, taps, bias, y):
    for r in range(start, stop):
        for t in range(x.shape[1]):
            out = y[r, t]
            convolve(x[r], taps, bias, t, out)
            for d in range(out.shape[0]):
                out[d] = out[d] / (ONE + exp(-out[d]))


def _backward(start, stop, x, taps, bias, grad, gx, gtaps, gbias):
    count, dim = taps.shape
    g = np.empty(dim, np.float32)
    for r in range(start, stop):
        gx[r] = ZERO
        gtaps[r] = ZERO
        gbias[r] = ZERO
        for t in range(x.shape[1]):
            convolve(x[r], taps, bias, t, g)
            for d in range(dim):
                p = g[d]
                gate = ONE / (ONE + exp(-p))
                g[d] = grad[r, t, d] * gate * (ONE + p * (ONE - gate))
                gbias[r, d] += g[d]
            for k in range(count):
                s = t - count + 1 + k
                if s >= 0:
                    for d in range(dim):
                        gx[r, s, d] += taps[k, d] * g[d]
                        gtaps[r, k, d] += g[d] * x[r, s, d]


with cached_on_disk():
    _compiled = njit(cache=True, nogil=True, fastmath=MATH, error_model="numpy")
    convolve = _compiled(_convolve)
    forward: Any = _compiled(_forward)
    backward: Any = _compiled(_backward)
