"""Compiled loops of the fused scan. Arrays are `(row, time, channel)`; states are `(state, channel)`.

Each function handles the rows `[start, stop)` in one thread and holds no interpreter lock.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .parallel import cached_on_disk

_f = np.float32
LOG2E = _f(1.4426950408889634)
LN2_HIGH = _f(0.693359375)
LN2_LOW = _f(-2.12194440e-4)
LOWEST, HIGHEST = _f(-87.0), _f(88.0)
ZERO, HALF, ONE, TWO = _f(0), _f(0.5), _f(1), _f(2)
E2, E3, E4, E5, E6, E7 = (_f(1 / k) for k in (2, 6, 24, 120, 720, 5040))
L3, L5, L7, L9, L11, L13, L15 = (_f(1 / k) for k in (3, 5, 7, 9, 11, 13, 15))

# No "nnan" and "ninf": a NaN or an infinity must come out as one.
MATH = {"reassoc", "contract", "nsz", "arcp", "afn"}


def _exp(x: Any) -> Any:
    """exp(x) in float32 within 2 units in the last place; x is cut to [-87, 88]."""
    x = LOWEST if x < LOWEST else x
    x = HIGHEST if x > HIGHEST else x
    k = np.floor(x * LOG2E + HALF)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    p = ONE + r * (ONE + r * (E2 + r * (E3 + r * (E4 + r * (E5 + r * (E6 + r * E7))))))
    scale = np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)
    return p * scale


def _softplus(x: Any) -> Any:
    """log(1 + exp(x)): for e = exp(-|x|), log(1 + e) = 2 artanh(e / (2 + e))."""
    e = exp(-abs(x))
    s = e / (TWO + e)
    q = s * s
    series = ONE + q * (L3 + q * (L5 + q * (L7 + q * (L9 + q * (L11 + q * (L13 + q * L15))))))
    return (x if x > ZERO else ZERO) + TWO * s * series


def _clip(x: Any, low: Any, high: Any) -> Any:
    """x cut to [low, high]; a NaN stays."""
    return low if x < low else (high if x > high else x)


def _steps(raw, softplus, out):
    """The step sizes of one frame."""
    for d in range(raw.shape[0]):
        out[d] = softplus_of(raw[d]) if softplus else raw[d]


def _advance(dt, u, A, B, C, D, clamped, bounds, h, decay, y):
    """One step in place; `decay` receives exp(dt A), `y` the output before clamp and gate."""
    states, dim = A.shape
    low, high, most, least_step, most_step, gain, limit = (
        bounds[0],
        bounds[1],
        bounds[2],
        bounds[3],
        bounds[4],
        bounds[5],
        bounds[6],
    )
    for d in range(dim):
        y[d] = D[d] * u[d]
    for n in range(states):
        b, c = B[n], C[n]
        if clamped:
            for d in range(dim):
                a = exp(clip(dt[d] * A[n, d], low, high))
                a = most if a > most else a
                q = clip(clip(dt[d], least_step, most_step) * b, -gain, gain)
                decay[n, d] = a
                state = clip(a * h[n, d] + q * u[d], -limit, limit)
                h[n, d] = state
                y[d] += state * c
        else:
            for d in range(dim):
                a = exp(dt[d] * A[n, d])
                decay[n, d] = a
                state = a * h[n, d] + dt[d] * b * u[d]
                h[n, d] = state
                y[d] += state * c


def _forward(start, stop, u, delta, B, C, z, A, D, softplus, clamped, gated, bounds, chunk, y, saved):
    states, dim = A.shape
    time = u.shape[1]
    keep = saved.shape[0] > 0
    h, decay = np.empty((states, dim), np.float32), np.empty((states, dim), np.float32)
    dt = np.empty(dim, np.float32)
    limit = bounds[7]
    for r in range(start, stop):
        h[:] = ZERO
        for t in range(time):
            if keep and t % chunk == 0:
                saved[r, t // chunk] = h
            steps(delta[r, t], softplus, dt)
            out = y[r, t]
            advance(dt, u[r, t], A, B[r, t], C[r, t], D, clamped, bounds, h, decay, out)
            if clamped:
                for d in range(dim):
                    out[d] = clip(out[d], -limit, limit)
            if gated:
                gate = z[r, t]
                for d in range(dim):
                    out[d] *= gate[d] / (ONE + exp(-gate[d]))


def _backward(
    start,
    stop,
    u,
    delta,
    B,
    C,
    z,
    A,
    D,
    softplus,
    clamped,
    gated,
    bounds,
    chunk,
    saved,
    grad,
    gu,
    gdelta,
    gB,
    gC,
    gz,
    gA,
    gD,
):
    states, dim = A.shape
    time = u.shape[1]
    h = np.empty((chunk + 1, states, dim), np.float32)
    decay = np.empty((chunk, states, dim), np.float32)
    dts = np.empty((chunk, dim), np.float32)
    gh = np.empty((states, dim), np.float32)
    ys, gy = np.empty((chunk, dim), np.float32), np.empty(dim, np.float32)
    gx, gdt = np.empty(dim, np.float32), np.empty(dim, np.float32)
    low, high, most, least_step, most_step, gain, limit, cut = (
        bounds[0],
        bounds[1],
        bounds[2],
        bounds[3],
        bounds[4],
        bounds[5],
        bounds[6],
        bounds[7],
    )
    for r in range(start, stop):
        gh[:] = ZERO
        for first in range(((time - 1) // chunk) * chunk, -1, -chunk):
            length = min(chunk, time - first)
            h[0] = saved[r, first // chunk]
            for i in range(length):
                t = first + i
                steps(delta[r, t], softplus, dts[i])
                h[i + 1] = h[i]
                advance(dts[i], u[r, t], A, B[r, t], C[r, t], D, clamped, bounds, h[i + 1], decay[i], ys[i])
            for i in range(length - 1, -1, -1):
                t = first + i
                dt, x, y = dts[i], u[r, t], ys[i]
                for d in range(dim):
                    gy[d] = grad[r, t, d]
                if gated:
                    gate, gate_gradient = z[r, t], gz[r, t]
                    for d in range(dim):
                        s = ONE / (ONE + exp(-gate[d]))
                        value = clip(y[d], -cut, cut) if clamped else y[d]
                        gate_gradient[d] = gy[d] * value * s * (ONE + gate[d] * (ONE - s))
                        gy[d] *= gate[d] * s
                if clamped:
                    for d in range(dim):
                        gy[d] = ZERO if abs(y[d]) > cut else gy[d]
                for d in range(dim):
                    gD[d] += gy[d] * x[d]
                    gx[d] = gy[d] * D[d]
                    gdt[d] = ZERO
                for n in range(states):
                    b, c = B[r, t, n], C[r, t, n]
                    before, after, a = h[i, n], h[i + 1, n], decay[i, n]
                    g, An, gAn = gh[n], A[n], gA[n]
                    sum_b, sum_c = ZERO, ZERO
                    if clamped:
                        for d in range(dim):
                            sum_c += gy[d] * after[d]
                            gs = g[d] + gy[d] * c
                            step = clip(dt[d], least_step, most_step)
                            q = step * b
                            bounded = clip(q, -gain, gain)
                            gs = ZERO if abs(a[d] * before[d] + bounded * x[d]) > limit else gs
                            gx[d] += gs * bounded
                            gq = ZERO if abs(q) > gain else gs * x[d]
                            sum_b += gq * step
                            gstep = ZERO if dt[d] < least_step else gq * b
                            gstep = ZERO if dt[d] > most_step else gstep
                            e = dt[d] * An[d]
                            ge = gs * before[d] * a[d]
                            ge = ZERO if a[d] >= most else ge
                            ge = ZERO if e < low else ge
                            ge = ZERO if e > high else ge
                            gdt[d] += gstep + ge * An[d]
                            gAn[d] += ge * dt[d]
                            g[d] = gs * a[d]
                    else:
                        for d in range(dim):
                            sum_c += gy[d] * after[d]
                            gs = g[d] + gy[d] * c
                            gx[d] += gs * dt[d] * b
                            gq = gs * x[d]
                            sum_b += gq * dt[d]
                            gs *= a[d]
                            ge = gs * before[d]
                            gdt[d] += gq * b + ge * An[d]
                            gAn[d] += ge * dt[d]
                            g[d] = gs
                    gB[r, t, n], gC[r, t, n] = sum_b, sum_c
                raw = delta[r, t]
                for d in range(dim):
                    gu[r, t, d] = gx[d]
                    gdelta[r, t, d] = gdt[d] / (ONE + exp(-raw[d])) if softplus else gdt[d]


with cached_on_disk():
    _inline = njit(cache=True, nogil=True, fastmath=MATH, error_model="numpy")
    _compiled = njit(cache=True, nogil=True, fastmath=MATH, error_model="numpy")
    exp = _inline(_exp)
    clip = _inline(_clip)
    softplus_of = _inline(_softplus)
    steps = _compiled(_steps)
    advance = _compiled(_advance)
    forward: Any = _compiled(_forward)
    backward: Any = _compiled(_backward)
