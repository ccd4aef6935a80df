"""Triton kernels of the fused scan: one program per (row, block of channels), sequential over time.

Wide inputs and outputs are `(row, time, channel)`, B and C are `(row, time, state)`, both with the last axis
contiguous. Register tiles are `[N, CHANNELS]`, with N the number of states rounded up to a power of two. A is
`(state, channel)`. Computation is in float32 for any dtypes that are loaded and stored. Exponents and their
bounds `low` and `high` are in units of log2(e). There are no atomics: the caller adds up sums over programs
in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * LOG2E))


@triton.jit
def _softplus(x):
    """log(1 + exp(x)), by log(1 + e) = 2 artanh(e / (2 + e)) with e = exp(-|x|)."""
    e = tl.exp2(-tl.abs(x) * LOG2E)
    s = e / (2.0 + e)
    q = s * s
    series = q * (1 / 9 + q * (1 / 11 + q * (1 / 13 + q * (1 / 15))))
    series = 1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + series)))
    return tl.where(x > 0, x, 0.0) + 2.0 * s * series


@triton.jit
def _clip(x, low, high):
    """x clipped to [low, high]; NaN is kept."""
    return tl.where(x < low, low, tl.where(x > high, high, x))


@triton.jit
def load(pointers, mask):
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _step(delta, SOFTPLUS: tl.constexpr):
    if SOFTPLUS:
        return _softplus(delta)
    return delta


@triton.jit
def _terms(dt, rate, b, low, high, most, least_step, most_step, gain, CLAMPED: tl.constexpr):
    """Decay `exp(dt A)` and gain `dt B` of one frame, before and after the bounds, each `[N, CHANNELS]`."""
    exponent = dt[None, :] * rate
    if CLAMPED:
        raw = tl.exp2(_clip(exponent, low, high))
        q = _clip(dt, least_step, most_step)[None, :] * b[:, None]
        return raw, tl.where(raw > most, most, raw), q, _clip(q, -gain, gain)
    decay = tl.exp2(exponent)
    q = dt[None, :] * b[:, None]
    return decay, decay, q, q


@triton.jit(do_not_specialize=["time"])
def forward(
    u,
    delta,
    B,
    C,
    z,
    A,
    D,
    y,
    saved,
    u_row,
    u_time,
    delta_row,
    delta_time,
    B_row,
    B_time,
    C_row,
    C_time,
    z_row,
    z_time,
    time,
    dim,
    states,
    low,
    high,
    most,
    least_step,
    most_step,
    gain,
    limit,
    cut,
    SOFTPLUS: tl.constexpr,
    CLAMPED: tl.constexpr,
    GATED: tl.constexpr,
    KEEP: tl.constexpr,
    CHUNK: tl.constexpr,
    N: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Compute `y` and, with KEEP, the state at the start of every chunk, `(row, chunk, state, channel)`."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    n = tl.arange(0, N)
    in_d, in_n = d < dim, n < states
    tile = in_n[:, None] & in_d[None, :]
    rate = load(A + n[:, None] * dim + d[None, :], tile) * LOG2E
    skip = load(D + d, in_d)
    u += row * u_row
    delta += row * delta_row
    B += row * B_row
    C += row * C_row
    z += row * z_row
    y += row * time * dim
    chunks = tl.cdiv(time, CHUNK)
    saved += row * chunks * states * dim + n[:, None] * dim + d[None, :]
    h = tl.zeros([N, CHANNELS], tl.float32)
    for part in range(chunks):
        if KEEP:
            tl.store(saved + part * states * dim, h, mask=tile)
        for t in range(part * CHUNK, tl.minimum(part * CHUNK + CHUNK, time)):
            dt = _step(load(delta + t * delta_time + d, in_d), SOFTPLUS)
            x = load(u + t * u_time + d, in_d)
            b = load(B + t * B_time + n, in_n)
            c = load(C + t * C_time + n, in_n)
            _, decay, _, bounded = _terms(dt, rate, b, low, high, most, least_step, most_step, gain, CLAMPED)
            h = decay * h + bounded * x[None, :]
            if CLAMPED:
                h = _clip(h, -limit, limit)
            out = tl.sum(h * c[:, None], axis=0) + skip * x
            if CLAMPED:
                out = _clip(out, -cut, cut)
            if GATED:
                gate = load(z + t * z_time + d, in_d)
                out = out * gate * sigmoid(gate)
            tl.store(y + t * dim + d, out, mask=in_d)


@triton.jit(do_not_specialize=["time"])
def backward(
    u,
    delta,
    B,
    C,
    z,
    A,
    D,
    grad,
    saved,
    scratch,
    gu,
    gdelta,
    gB,
    gC,
    gz,
    gA,
    gD,
    u_row,
    u_time,
    delta_row,
    delta_time,
    B_row,
    B_time,
    C_row,
    C_time,
    z_row,
    z_time,
    grad_row,
    grad_time,
    time,
    dim,
    states,
    low,
    high,
    most,
    least_step,
    most_step,
    gain,
    limit,
    cut,
    SOFTPLUS: tl.constexpr,
    CLAMPED: tl.constexpr,
    GATED: tl.constexpr,
    CHUNK: tl.constexpr,
    N: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Compute all gradients.

    The caller sums those of A `(row, state, channel)` and D `(row, channel)` over rows, and those of B and C
    `(block of channels, row, time, state)` over blocks. A chunk's states are recomputed from the saved one
    into `scratch`, `(row, block, frame of the chunk, N, CHANNELS)`, and read back in reverse. The barriers
    order these stores and loads, since Triton inserts none between accesses of global memory.
    """
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    d = block * CHANNELS + tl.arange(0, CHANNELS)
    n = tl.arange(0, N)
    in_d, in_n = d < dim, n < states
    tile = in_n[:, None] & in_d[None, :]
    rate = load(A + n[:, None] * dim + d[None, :], tile) * LOG2E
    skip = load(D + d, in_d)
    chunks = tl.cdiv(time, CHUNK)
    u += row * u_row
    delta += row * delta_row
    B += row * B_row
    C += row * C_row
    z += row * z_row
    grad += row * grad_row
    gu += row * time * dim
    gdelta += row * time * dim
    gz += row * time * dim
    gB += (block * tl.num_programs(0) + row) * time * states
    gC += (block * tl.num_programs(0) + row) * time * states
    saved += row * chunks * states * dim + n[:, None] * dim + d[None, :]
    place = n[:, None] * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    scratch += (row * tl.num_programs(1) + block) * CHUNK * N * CHANNELS + place
    gh = tl.zeros([N, CHANNELS], tl.float32)
    sum_A = tl.zeros([N, CHANNELS], tl.float32)
    sum_D = tl.zeros([CHANNELS], tl.float32)
    for later in range(chunks):
        first = (chunks - 1 - later) * CHUNK
        length = tl.minimum(CHUNK, time - first)
        h = load(saved + (chunks - 1 - later) * states * dim, tile)
        for i in range(length):
            t = first + i
            tl.store(scratch + i * N * CHANNELS, h)
            dt = _step(load(delta + t * delta_time + d, in_d), SOFTPLUS)
            x = load(u + t * u_time + d, in_d)
            b = load(B + t * B_time + n, in_n)
            _, decay, _, bounded = _terms(dt, rate, b, low, high, most, least_step, most_step, gain, CLAMPED)
            h = decay * h + bounded * x[None, :]
            if CLAMPED:
                h = _clip(h, -limit, limit)
        tl.debug_barrier()
        for after in range(length):
            i = length - 1 - after
            t = first + i
            raw_dt = load(delta + t * delta_time + d, in_d)
            dt = _step(raw_dt, SOFTPLUS)
            x = load(u + t * u_time + d, in_d)
            b = load(B + t * B_time + n, in_n)
            c = load(C + t * C_time + n, in_n)
            gy = load(grad + t * grad_time + d, in_d)
            before = tl.load(scratch + i * N * CHANNELS)
            raw, decay, q, bounded = _terms(
                dt, rate, b, low, high, most, least_step, most_step, gain, CLAMPED
            )
            state = decay * before + bounded * x[None, :]
            free = state
            if CLAMPED:
                state = _clip(state, -limit, limit)
            if GATED or CLAMPED:
                out = tl.sum(state * c[:, None], axis=0) + skip * x
                uncut = out
                if CLAMPED:
                    out = _clip(out, -cut, cut)
                if GATED:
                    gate = load(z + t * z_time + d, in_d)
                    s = sigmoid(gate)
                    tl.store(gz + t * dim + d, gy * out * s * (1.0 + gate * (1.0 - s)), mask=in_d)
                    gy = gy * gate * s
                if CLAMPED:
                    gy = tl.where(tl.abs(uncut) > cut, 0.0, gy)
            sum_D += gy * x
            tl.store(gC + t * states + n, tl.sum(gy[None, :] * state, axis=1), mask=in_n)
            gs = gh + gy[None, :] * c[:, None]
            if CLAMPED:
                gs = tl.where(tl.abs(free) > limit, 0.0, gs)
            gx = tl.sum(gs * bounded, axis=0)
            gq = gs * x[None, :]
            gh = gs * decay
            ge = gh * before
            step = dt
            passes = tl.full([CHANNELS], 1.0, tl.float32)
            if CLAMPED:
                exponent = dt[None, :] * rate
                gq = tl.where(tl.abs(q) > gain, 0.0, gq)
                ge = tl.where((raw > most) | (exponent < low) | (exponent > high), 0.0, ge)
                step = _clip(dt, least_step, most_step)
                passes = tl.where(step == dt, 1.0, 0.0)
            tl.store(gB + t * states + n, tl.sum(gq * step[None, :], axis=1), mask=in_n)
            sum_A += ge * dt[None, :]
            gdt = passes * tl.sum(gq * b[:, None], axis=0) + LN2 * tl.sum(ge * rate, axis=0)
            if SOFTPLUS:
                gdt = gdt * sigmoid(raw_dt)
            tl.store(gu + t * dim + d, gy * skip + gx, mask=in_d)
            tl.store(gdelta + t * dim + d, gdt, mask=in_d)
        tl.debug_barrier()
    tl.store(gA + row * states * dim + n[:, None] * dim + d[None, :], sum_A, mask=tile)
    tl.store(gD + row * dim + d, sum_D, mask=in_d)
