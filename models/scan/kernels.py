"""Compiled loops of the fused scan. Arrays are `(row, time, channel)`; states are `(state, channel)`.

Each function processes the rows `[start, stop)` in one thread, without the interpreter lock. Its arrays must
not overlap, which allows the loops over channels to vectorise. `A` and the bounds of the exponent are in
units of log2(e), and the number of states is even. The caller provides scratch arrays, one set per thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numba.core.compiler import Compiler

from .parallel import cached_on_disk

_f = np.float32
LOG2E, LN2 = _f(1.4426950408889634), _f(0.6931471805599453)
LOWEST, HIGHEST = _f(-126), _f(127)
ZERO, ONE, TWO = _f(0), _f(1), _f(2)
E1, E2, E3, E4, E5 = (
    _f(c) for c in (0.69314698, 0.24022242, 0.05550734, 0.00967151, 0.00132647)
)  # least relative error of 2^r on [-1/2, 1/2] with 2^0 = 1: 9e-8
ROUND = _f(1.5 * 2**23 + 127)  # a float plus this holds the nearest integer plus 127 in its lowest bits
BITS = np.int32(23)
L3, L5, L7, L9, L11, L13, L15 = (_f(1 / k) for k in (3, 5, 7, 9, 11, 13, 15))

# No "nnan" and "ninf": a NaN or an infinity must come out as one.
MATH = {"reassoc", "contract", "nsz", "arcp", "afn"}
IN_ORDER = MATH - {"reassoc"}


def _exp2(x: Any) -> Any:
    """2^x in float32, to 2 units in the last place; x is clipped to [-126, 127]."""
    x = LOWEST if x < LOWEST else x
    x = HIGHEST if x > HIGHEST else x
    k = x + ROUND
    r = x - (k - ROUND)
    p = ONE + r * (E1 + r * (E2 + r * (E3 + r * (E4 + r * E5))))
    return p * np.int32(np.float32(k).view(np.int32) << BITS).view(np.float32)


def _exp(x: Any) -> Any:
    return exp2(x * LOG2E)


def _softplus(x: Any) -> Any:
    """log(1 + exp(x)), by log(1 + e) = 2 artanh(e / (2 + e)) with e = exp(-|x|)."""
    e = exp(-abs(x))
    s = e / (TWO + e)
    q = s * s
    series = ONE + q * (L3 + q * (L5 + q * (L7 + q * (L9 + q * (L11 + q * (L13 + q * L15))))))
    return (x if x > ZERO else ZERO) + TWO * s * series


def _clip(x: Any, low: Any, high: Any) -> Any:
    """x clipped to [low, high]; NaN is kept."""
    return low if x < low else (high if x > high else x)


def _forward(
    start, stop, u, delta, B, C, z, A, D, softplus, clamped, gated, bounds, chunk, h, dt, x, out, y, saved
):
    states, dim = A.shape
    time = u.shape[1]
    keep = saved.shape[0] > 0
    low, high, most, least_step, most_step = bounds[0], bounds[1], bounds[2], bounds[3], bounds[4]
    gain, limit, cut = bounds[5], bounds[6], bounds[7]
    for r in range(start, stop):
        for n in range(states):
            for d in range(dim):
                h[n, d] = ZERO
        for t in range(time):
            if keep and t % chunk == 0:
                for n in range(states):
                    for d in range(dim):
                        saved[r, t // chunk, n, d] = h[n, d]
            if softplus:
                for d in range(dim):
                    dt[d] = softplus_of(delta[r, t, d])
            else:
                for d in range(dim):
                    dt[d] = delta[r, t, d]
            for d in range(dim):
                x[d] = u[r, t, d] if clamped else dt[d] * u[r, t, d]
                out[d] = D[d] * u[r, t, d]
            if clamped:
                for n in range(states):
                    b, c = B[r, t, n], C[r, t, n]
                    for d in range(dim):
                        a = exp2(clip(dt[d] * A[n, d], low, high))
                        a = most if a > most else a
                        q = clip(clip(dt[d], least_step, most_step) * b, -gain, gain)
                        state = clip(a * h[n, d] + q * x[d], -limit, limit)
                        h[n, d] = state
                        out[d] += state * c
            else:
                for n in range(0, states, 2):
                    b, c, b2, c2 = B[r, t, n], C[r, t, n], B[r, t, n + 1], C[r, t, n + 1]
                    for d in range(dim):
                        state = exp2(dt[d] * A[n, d]) * h[n, d] + x[d] * b
                        state2 = exp2(dt[d] * A[n + 1, d]) * h[n + 1, d] + x[d] * b2
                        h[n, d] = state
                        h[n + 1, d] = state2
                        out[d] += state * c + state2 * c2
            if clamped:
                for d in range(dim):
                    out[d] = clip(out[d], -cut, cut)
            if gated:
                for d in range(dim):
                    y[r, t, d] = out[d] * z[r, t, d] / (ONE + exp(-z[r, t, d]))
            else:
                for d in range(dim):
                    y[r, t, d] = out[d]


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
    h,
    decay,
    dts,
    ys,
    gh,
    gy,
    gx,
    gdt,
    dtu,
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
    low, high, most, least_step, most_step = bounds[0], bounds[1], bounds[2], bounds[3], bounds[4]
    gain, limit, cut = bounds[5], bounds[6], bounds[7]
    for r in range(start, stop):
        for d in range(dim):
            gD[r, d] = ZERO
        for n in range(states):
            for d in range(dim):
                gh[n, d] = ZERO
                gA[r, n, d] = ZERO
        for part in range((time - 1) // chunk, -1, -1):
            first = part * chunk
            length = min(chunk, time - first)
            for n in range(states):
                for d in range(dim):
                    h[0, n, d] = saved[r, part, n, d]
            for i in range(length):
                t = first + i
                if softplus:
                    for d in range(dim):
                        dts[i, d] = softplus_of(delta[r, t, d])
                else:
                    for d in range(dim):
                        dts[i, d] = delta[r, t, d]
                for d in range(dim):
                    gx[d] = u[r, t, d] if clamped else dts[i, d] * u[r, t, d]
                    ys[i, d] = D[d] * u[r, t, d]
                if clamped:
                    for n in range(states):
                        b, c = B[r, t, n], C[r, t, n]
                        for d in range(dim):
                            a = exp2(clip(dts[i, d] * A[n, d], low, high))
                            a = most if a > most else a
                            q = clip(clip(dts[i, d], least_step, most_step) * b, -gain, gain)
                            state = clip(a * h[i, n, d] + q * gx[d], -limit, limit)
                            decay[i, n, d] = a
                            h[i + 1, n, d] = state
                            ys[i, d] += state * c
                else:
                    for n in range(0, states, 2):
                        b, c, b2, c2 = B[r, t, n], C[r, t, n], B[r, t, n + 1], C[r, t, n + 1]
                        for d in range(dim):
                            a = exp2(dts[i, d] * A[n, d])
                            a2 = exp2(dts[i, d] * A[n + 1, d])
                            state = a * h[i, n, d] + gx[d] * b
                            state2 = a2 * h[i, n + 1, d] + gx[d] * b2
                            decay[i, n, d] = a
                            decay[i, n + 1, d] = a2
                            h[i + 1, n, d] = state
                            h[i + 1, n + 1, d] = state2
                            ys[i, d] += state * c + state2 * c2
            for i in range(length - 1, -1, -1):
                t = first + i
                if gated:
                    for d in range(dim):
                        gate = z[r, t, d]
                        s = ONE / (ONE + exp(-gate))
                        y = ys[i, d]
                        value = clip(y, -cut, cut) if clamped else y
                        gz[r, t, d] = grad[r, t, d] * value * s * (ONE + gate * (ONE - s))
                        gy[d] = grad[r, t, d] * gate * s
                else:
                    for d in range(dim):
                        gy[d] = grad[r, t, d]
                if clamped:
                    for d in range(dim):
                        gy[d] = ZERO if abs(ys[i, d]) > cut else gy[d]
                for d in range(dim):
                    gD[r, d] += gy[d] * u[r, t, d]
                    dtu[d] = dts[i, d] * u[r, t, d]
                    gx[d] = ZERO
                    gdt[d] = ZERO
                if clamped:
                    for n in range(states):
                        b, c = B[r, t, n], C[r, t, n]
                        sum_b, sum_c = ZERO, ZERO
                        for d in range(dim):
                            dt, x, a, before = dts[i, d], u[r, t, d], decay[i, n, d], h[i, n, d]
                            sum_c += gy[d] * h[i + 1, n, d]
                            gs = gh[n, d] + gy[d] * c
                            step = clip(dt, least_step, most_step)
                            q = step * b
                            bounded = clip(q, -gain, gain)
                            gs = ZERO if abs(a * before + bounded * x) > limit else gs
                            gx[d] += gs * bounded
                            gq = ZERO if abs(q) > gain else gs * x
                            sum_b += gq * step
                            gstep = ZERO if dt < least_step else gq * b
                            gstep = ZERO if dt > most_step else gstep
                            e = dt * A[n, d]
                            ge = gs * before * a
                            ge = ZERO if a >= most else ge
                            ge = ZERO if e < low else ge
                            ge = ZERO if e > high else ge
                            gdt[d] += gstep + ge * (A[n, d] * LN2)
                            gA[r, n, d] += ge * dt
                            gh[n, d] = gs * a
                        gB[r, t, n], gC[r, t, n] = sum_b, sum_c
                else:
                    for n in range(0, states, 2):
                        b, c, b2, c2 = B[r, t, n], C[r, t, n], B[r, t, n + 1], C[r, t, n + 1]
                        sum_b, sum_c, sum_b2, sum_c2 = ZERO, ZERO, ZERO, ZERO
                        for d in range(dim):
                            g = gy[d]
                            sum_c += g * h[i + 1, n, d]
                            sum_c2 += g * h[i + 1, n + 1, d]
                            gs = gh[n, d] + g * c
                            gs2 = gh[n + 1, d] + g * c2
                            sum_b += gs * dtu[d]
                            sum_b2 += gs2 * dtu[d]
                            gx[d] += gs * b + gs2 * b2
                            gs *= decay[i, n, d]
                            gs2 *= decay[i, n + 1, d]
                            ge = gs * h[i, n, d]
                            ge2 = gs2 * h[i, n + 1, d]
                            gdt[d] += ge * A[n, d] + ge2 * A[n + 1, d]
                            gA[r, n, d] += ge * dts[i, d]
                            gA[r, n + 1, d] += ge2 * dts[i, d]
                            gh[n, d] = gs
                            gh[n + 1, d] = gs2
                        gB[r, t, n], gC[r, t, n] = sum_b, sum_c
                        gB[r, t, n + 1], gC[r, t, n + 1] = sum_b2, sum_c2
                for d in range(dim):
                    change = gdt[d] if clamped else gdt[d] * LN2 + gx[d] * u[r, t, d]
                    gu[r, t, d] = gy[d] * D[d] + (gx[d] if clamped else gx[d] * dts[i, d])
                    gdelta[r, t, d] = change / (ONE + exp(-delta[r, t, d])) if softplus else change


class Apart(Compiler):
    """A compiler that assumes that the arrays passed to a function do not overlap."""

    def define_pipelines(self) -> Any:
        self.state.flags.noalias = True
        return super().define_pipelines()


with cached_on_disk():
    _inline = njit(cache=True, nogil=True, fastmath=MATH, error_model="numpy")
    _compiled = njit(cache=True, nogil=True, fastmath=MATH, error_model="numpy", pipeline_class=Apart)
    exp2 = njit(cache=True, nogil=True, fastmath=IN_ORDER, error_model="numpy")(_exp2)
    exp = _inline(_exp)
    clip = _inline(_clip)
    softplus_of = _inline(_softplus)
    forward: Any = _compiled(_forward)
    backward: Any = _compiled(_backward)
