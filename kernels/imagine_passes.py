"""The two passes of `kernels.imagine`, each a kernel of all steps and layers.

Programs share out the tiles of a layer's outputs and meet after it (`kernels.rollout` says how). No gradient flows from
the actor's input into the state, so that the actor's layers are no part of the way back: that is a chain of the
transition's products alone, which ends in the gradient of what the policy's last layer said in every step. The actor's
own gradients follow from these as those of any MLP, for all steps at once.

What the interpreter cannot show is why programs meet where they do: after every layer, because its outputs are the next
one's inputs, and after each step's last layer, because what it writes is overwritten only by the step after. What
programs have written is read past a multiprocessor's own cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .layers import softplus
from .mlp import elu, elu_slope
from .rollout import _meet
from .unpadded import rounded

# Without disable_licm what all tiles' addresses have in common is kept in registers, more than there are.


@triton.jit
def _tanh(x):
    """As `layers.tanh`, near 0 to all digits, too."""
    e = tl.exp(-2.0 * tl.abs(x))
    y = (1.0 - e) / (1.0 + e)
    s = x * x
    small = x * (1.0 + s * (-1.0 / 3 + s * (2.0 / 15 + s * (-17.0 / 315 + s * (62.0 / 2835)))))
    return tl.where(tl.abs(x) < 0.25, small, tl.where(x < 0, -y, y))


@triton.jit
def _fresh(at, live):
    # What other programs have written: a multiprocessor's own cache does not see it.
    return tl.load(at, mask=live, other=0.0, cache_modifier=".cg")


@triton.jit
def _factor(y, PRECISION: tl.constexpr):
    """What is kept to be multiplied: a product in tf32 would cut off what is not rounded here."""
    if PRECISION == "tf32":
        y = rounded(y)
    return y


@triton.jit
def _product(
    total, x, x_stride, w, w_stride, row, column, rows, columns,
    K: tl.constexpr, BLOCK_K: tl.constexpr, TURNED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """total [M, N] + x[row, :K] @ w[column, :K]^T, or TURNED @ w[:K, column]."""
    k = tl.arange(0, BLOCK_K)
    a = x + row.to(tl.int64)[:, None] * x_stride + k[None, :]
    for begin in range(0, K, BLOCK_K):
        left = begin + k < K
        seen = _fresh(a + begin, (row < rows)[:, None] & left[None, :])
        if TURNED:
            at = w + (begin + k)[:, None] * w_stride + column[None, :]
        else:
            at = w + column[None, :] * w_stride + (begin + k)[:, None]
        weight = tl.load(at, mask=left[:, None] & (column < columns)[None, :], other=0.0)
        total = tl.dot(seen, weight, total, input_precision=PRECISION)
    return total


@triton.jit
def _gates(
    first, second, third, x, x_stride, w, row, column, rows, columns,
    K: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`_product` for the same outputs of three gates, `columns` apart, which reads x once."""
    k = tl.arange(0, BLOCK_K)
    a = x + row.to(tl.int64)[:, None] * x_stride + k[None, :]
    for begin in range(0, K, BLOCK_K):
        left = begin + k < K
        seen = _fresh(a + begin, (row < rows)[:, None] & left[None, :])
        at, inside = w + column[None, :] * K + (begin + k)[:, None], left[:, None] & (column < columns)[None, :]
        first = tl.dot(seen, tl.load(at, mask=inside, other=0.0), first, input_precision=PRECISION)
        at += columns * K
        second = tl.dot(seen, tl.load(at, mask=inside, other=0.0), second, input_precision=PRECISION)
        at += columns * K
        third = tl.dot(seen, tl.load(at, mask=inside, other=0.0), third, input_precision=PRECISION)
    return first, second, third


@triton.jit
def _bias(at, column, columns):
    return tl.load(at + column, mask=column < columns, other=0.0)[None, :]


@triton.jit
def _gru(
    x, h, after, gates, flat, row, column, rows,
    W_I: tl.constexpr, W_H: tl.constexpr, B_I: tl.constexpr, B_H: tl.constexpr,
    INP: tl.constexpr, D: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A step of torch.nn.GRUCell for some rows and columns; `gates` [rows, 4 D] get reset, update, candidate and what
    the candidate recalls of the state."""
    none = tl.zeros([row.shape[0], column.shape[0]], tl.float32)
    reset, update, entering = _gates(
        none, none, none, x, INP, flat + W_I, row, column, rows, D, INP, BLOCK_K, PRECISION
    )  # fmt: skip
    reset, update, recalled = _gates(
        reset, update, none, h, D, flat + W_H, row, column, rows, D, D, BLOCK_K, PRECISION
    )  # fmt: skip
    reset = tl.sigmoid(reset + _bias(flat + B_I, column, D) + _bias(flat + B_H, column, D))
    update = tl.sigmoid(update + _bias(flat + B_I + D, column, D) + _bias(flat + B_H + D, column, D))
    recalled += _bias(flat + B_H + 2 * D, column, D)
    candidate = _tanh(entering + _bias(flat + B_I + 2 * D, column, D) + reset * recalled)
    live = (row < rows)[:, None] & (column < D)[None, :]
    at = row.to(tl.int64)[:, None] * D + column[None, :]
    before = _fresh(h + at, live)
    tl.store(after + at, candidate + update * (before - candidate), mask=live)
    to = gates + row.to(tl.int64)[:, None] * 4 * D + column[None, :]
    tl.store(to, reset, mask=live)
    tl.store(to + D, update, mask=live)
    tl.store(to + 2 * D, candidate, mask=live)
    tl.store(to + 3 * D, recalled, mask=live)


@triton.jit
def _normal(
    x, w, bias, row, rows,
    K: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What a layer of 2 SIZE outputs says of a normal: two tiles [M, WIDTH]."""
    column, none = tl.arange(0, WIDTH), tl.zeros([row.shape[0], WIDTH], tl.float32)
    mean = _product(none, x, K, w, K, row, column, rows, SIZE, K, BLOCK_K, False, PRECISION)
    raw = _product(none, x, K, w + SIZE * K, K, row, column, rows, SIZE, K, BLOCK_K, False, PRECISION)
    return mean + _bias(bias, column, SIZE), raw + _bias(bias + SIZE, column, SIZE)


@triton.jit
def forward(
    flat, held, held_period, held_stride, length, periods, stoch, deter, stoch_noise, action_noise,
    hidden, entering, gates, leaving, stoch_slope, actions, mean, std, policy_slope, counter, steps, rows,
    min_std, policy_min_std, mean_scale, offset,
    W: tl.constexpr, B: tl.constexpr, UNITS: tl.constexpr, LAYERS: tl.constexpr, SEEN: tl.constexpr,
    W_POLICY: tl.constexpr, B_POLICY: tl.constexpr, W_INP: tl.constexpr, B_INP: tl.constexpr,
    W_I: tl.constexpr, W_H: tl.constexpr, B_I: tl.constexpr, B_H: tl.constexpr,
    W_HIDDEN: tl.constexpr, B_HIDDEN: tl.constexpr, W_OUT: tl.constexpr, B_OUT: tl.constexpr,
    S: tl.constexpr, A: tl.constexpr, D: tl.constexpr, INP: tl.constexpr, HIDDEN: tl.constexpr,
    S_WIDTH: tl.constexpr, A_WIDTH: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, GATES: tl.constexpr, SAMPLED: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    first, programs = tl.program_id(0), tl.num_programs(0)
    row_tiles, drawn_tiles, arrivals = tl.cdiv(rows, M), tl.cdiv(rows, SAMPLED), programs
    if PRECISION == "tf32":
        # The weights, for both passes; biases follow them.
        for begin in range(first * M * N, B[0], programs * M * N):
            at = begin + tl.arange(0, M * N)
            tl.store(flat + at, rounded(_fresh(flat + at, at < B[0])), mask=at < B[0])
        _meet(counter, arrivals)
        arrivals += programs
    for t in tl.range(0, steps, disable_licm=True):
        done = tl.cast(t, tl.int64) * rows  # rows before this step's
        s, h = stoch + done * S, deter + done * D
        # The actor.
        across = tl.cdiv(UNITS[0], N)
        period = tl.cast(tl.minimum(t // length, periods - 1), tl.int64)
        for i in tl.range(first, row_tiles * across, programs, disable_licm=True):
            row, column = i // across * M + tl.arange(0, M), i % across * N + tl.arange(0, N)
            live = (row < rows)[:, None] & (column < UNITS[0])[None, :]
            y = tl.zeros([M, N], tl.float32)
            y = _product(y, s, S, flat + W[0], SEEN, row, column, rows, UNITS[0], S, BLOCK_K, False, PRECISION)
            y = _product(y, h, D, flat + W[0] + S, SEEN, row, column, rows, UNITS[0], D, BLOCK_K, False, PRECISION)
            at = row.to(tl.int64)[:, None]
            y += tl.load(held + period * held_period + at * held_stride + column[None, :], mask=live, other=0.0)
            tl.store(hidden + (done + at) * UNITS[0] + column[None, :], _factor(elu(y), PRECISION), mask=live)
        _meet(counter, arrivals)
        arrivals += programs
        below = hidden
        for layer in tl.static_range(1, LAYERS):
            above = below + tl.cast(steps, tl.int64) * rows * UNITS[layer - 1]
            across = tl.cdiv(UNITS[layer], N)
            for i in tl.range(first, row_tiles * across, programs, disable_licm=True):
                row, column = i // across * M + tl.arange(0, M), i % across * N + tl.arange(0, N)
                y = _product(
                    tl.zeros([M, N], tl.float32), below + done * UNITS[layer - 1], UNITS[layer - 1],
                    flat + W[layer], UNITS[layer - 1], row, column, rows, UNITS[layer],
                    UNITS[layer - 1], BLOCK_K, False, PRECISION,
                )  # fmt: skip
                y = _factor(elu(y + _bias(flat + B[layer], column, UNITS[layer])), PRECISION)
                at = above + (done + row.to(tl.int64)[:, None]) * UNITS[layer] + column[None, :]
                tl.store(at, y, mask=(row < rows)[:, None] & (column < UNITS[layer])[None, :])
            _meet(counter, arrivals)
            arrivals += programs
            below = above
        # The action.
        for i in tl.range(first, drawn_tiles, programs, disable_licm=True):
            row, column = i * SAMPLED + tl.arange(0, SAMPLED), tl.arange(0, A_WIDTH)
            said, raw = _normal(
                below + done * UNITS[LAYERS - 1], flat + W_POLICY, flat + B_POLICY, row, rows,
                UNITS[LAYERS - 1], A, A_WIDTH, BLOCK_K, PRECISION,
            )  # fmt: skip
            live = (row < rows)[:, None] & (column < A)[None, :]
            at = (done + row.to(tl.int64)[:, None]) * A + column[None, :]
            said = mean_scale * _tanh(said / mean_scale)
            deviation = softplus(raw + offset) + policy_min_std
            tl.store(mean + at, said, mask=live)
            tl.store(std + at, deviation, mask=live)
            tl.store(policy_slope + at, tl.sigmoid(raw + offset), mask=live)
            if action_noise is not None:
                said += deviation * tl.load(action_noise + at, mask=live, other=0.0)
            tl.store(actions + at, _tanh(said), mask=live)
        _meet(counter, arrivals)
        arrivals += programs
        # The transition.
        across = tl.cdiv(INP, N)
        for i in tl.range(first, row_tiles * across, programs, disable_licm=True):
            row, column = i // across * M + tl.arange(0, M), i % across * N + tl.arange(0, N)
            y = tl.zeros([M, N], tl.float32)
            y = _product(y, s, S, flat + W_INP, S + A, row, column, rows, INP, S, BLOCK_K, False, PRECISION)
            y = _product(
                y, actions + done * A, A, flat + W_INP + S, S + A, row, column, rows, INP, A, A_WIDTH, False, PRECISION,
            )  # fmt: skip
            at = entering + (done + row.to(tl.int64)[:, None]) * INP + column[None, :]
            y = _factor(elu(y + _bias(flat + B_INP, column, INP)), PRECISION)
            tl.store(at, y, mask=(row < rows)[:, None] & (column < INP)[None, :])
        _meet(counter, arrivals)
        arrivals += programs
        across = tl.cdiv(D, GATES)
        for i in tl.range(first, row_tiles * across, programs, disable_licm=True):
            row, column = i // across * M + tl.arange(0, M), i % across * GATES + tl.arange(0, GATES)
            _gru(
                entering + done * INP, h, h + tl.cast(rows, tl.int64) * D, gates + done * 4 * D, flat,
                row, column, rows, W_I, W_H, B_I, B_H, INP, D, BLOCK_K, PRECISION,
            )  # fmt: skip
        _meet(counter, arrivals)
        arrivals += programs
        across = tl.cdiv(HIDDEN, N)
        for i in tl.range(first, row_tiles * across, programs, disable_licm=True):
            row, column = i // across * M + tl.arange(0, M), i % across * N + tl.arange(0, N)
            y = _product(
                tl.zeros([M, N], tl.float32), h + tl.cast(rows, tl.int64) * D, D, flat + W_HIDDEN, D, row, column, rows,
                HIDDEN, D, BLOCK_K, False, PRECISION,
            )  # fmt: skip
            at = leaving + (done + row.to(tl.int64)[:, None]) * HIDDEN + column[None, :]
            y = _factor(elu(y + _bias(flat + B_HIDDEN, column, HIDDEN)), PRECISION)
            tl.store(at, y, mask=(row < rows)[:, None] & (column < HIDDEN)[None, :])
        _meet(counter, arrivals)
        arrivals += programs
        for i in tl.range(first, drawn_tiles, programs, disable_licm=True):
            row, column = i * SAMPLED + tl.arange(0, SAMPLED), tl.arange(0, S_WIDTH)
            said, raw = _normal(
                leaving + done * HIDDEN, flat + W_OUT, flat + B_OUT, row, rows, HIDDEN, S, S_WIDTH, BLOCK_K, PRECISION
            )  # fmt: skip
            live = (row < rows)[:, None] & (column < S)[None, :]
            at = (done + row.to(tl.int64)[:, None]) * S + column[None, :]
            drawn = tl.load(stoch_noise + at, mask=live, other=0.0)
            tl.store(stoch_slope + at, drawn * tl.sigmoid(raw), mask=live)
            tl.store(stoch + at + tl.cast(rows, tl.int64) * S, said + (softplus(raw) + min_std) * drawn, mask=live)
        _meet(counter, arrivals)
        arrivals += programs


@triton.jit
def backward(
    flat, g_stoch, g_stoch_stride, g_deter, g_deter_stride, g_actions, g_actions_stride, g_mean, g_mean_stride,
    g_std, g_std_stride, deter, action_noise, entering, gates, leaving, stoch_slope, actions, mean, policy_slope,
    d_leaving, d_gates, d_entering, carry_stoch, carry_deter, d_policy, counter, steps, rows, mean_scale,
    W_INP: tl.constexpr, W_I: tl.constexpr, W_H: tl.constexpr, W_HIDDEN: tl.constexpr, W_OUT: tl.constexpr,
    S: tl.constexpr, A: tl.constexpr, D: tl.constexpr, INP: tl.constexpr, HIDDEN: tl.constexpr,
    S_WIDTH: tl.constexpr, A_WIDTH: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, GATES: tl.constexpr, SAMPLED: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of the five outputs may be left out. Of a step's gradient `d_gates` [rows, 4 D] are those before reset,
    update and candidate, as the input's share of them gets them, and before the candidate, as the state's does."""
    first, programs = tl.program_id(0), tl.num_programs(0)
    row_tiles, drawn_tiles, arrivals = tl.cdiv(rows, M), tl.cdiv(rows, SAMPLED), programs
    for back in tl.range(0, steps, disable_licm=True):
        t = steps - 1 - back
        done, later = tl.cast(t, tl.int64) * rows, back > 0
        # Through what is sampled, and the layer before it.
        across, k = tl.cdiv(HIDDEN, N), tl.arange(0, BLOCK_K)
        for i in tl.range(first, row_tiles * across, programs, disable_licm=True):
            row, column = i // across * M + tl.arange(0, M), i % across * N + tl.arange(0, N)
            at, y = row.to(tl.int64)[:, None], tl.zeros([M, N], tl.float32)
            for begin in range(0, S, BLOCK_K):
                part = begin + k
                live = (row < rows)[:, None] & (part < S)[None, :]
                d = _fresh(carry_stoch + at * S + part[None, :], live & later)
                if g_stoch is not None:
                    d += tl.load(g_stoch + (done + at) * g_stoch_stride + part[None, :], mask=live, other=0.0)
                weight, inside = flat + W_OUT + part[:, None] * HIDDEN + column[None, :], (column < HIDDEN)[None, :]
                inside = (part < S)[:, None] & inside
                y = tl.dot(d, tl.load(weight, mask=inside, other=0.0), y, input_precision=PRECISION)
                d *= tl.load(stoch_slope + (done + at) * S + part[None, :], mask=live, other=0.0)
                weight += S * HIDDEN
                y = tl.dot(d, tl.load(weight, mask=inside, other=0.0), y, input_precision=PRECISION)
            live = (row < rows)[:, None] & (column < HIDDEN)[None, :]
            y *= elu_slope(tl.load(leaving + (done + at) * HIDDEN + column[None, :], mask=live, other=0.0))
            tl.store(d_leaving + at * HIDDEN + column[None, :], _factor(y, PRECISION), mask=live)
        _meet(counter, arrivals)
        arrivals += programs
        # Into the state, and through the GRU's gates.
        across = tl.cdiv(D, GATES)
        for i in tl.range(first, row_tiles * across, programs, disable_licm=True):
            row, column = i // across * M + tl.arange(0, M), i % across * GATES + tl.arange(0, GATES)
            at, live = row.to(tl.int64)[:, None], (row < rows)[:, None] & (column < D)[None, :]
            d = _fresh(carry_deter + at * D + column[None, :], live & later)
            if g_deter is not None:
                d += tl.load(g_deter + (done + at) * g_deter_stride + column[None, :], mask=live, other=0.0)
            d = _product(
                d, d_leaving, HIDDEN, flat + W_HIDDEN, D, row, column, rows, D, HIDDEN, BLOCK_K, True, PRECISION
            )  # fmt: skip
            gate = gates + (done + at) * 4 * D + column[None, :]
            reset, update = tl.load(gate, mask=live, other=0.0), tl.load(gate + D, mask=live, other=0.0)
            candidate = tl.load(gate + 2 * D, mask=live, other=0.0)
            before = tl.load(deter + (done + at) * D + column[None, :], mask=live, other=0.0)
            d_candidate = d * (1.0 - update) * (1.0 - candidate * candidate)
            d_recalled = d_candidate * reset
            recalled = tl.load(gate + 3 * D, mask=live, other=0.0)
            to = d_gates + at * 4 * D + column[None, :]
            tl.store(to, _factor(d_recalled * recalled * (1.0 - reset), PRECISION), mask=live)
            d_update = d * (before - candidate) * update * (1.0 - update)
            tl.store(to + D, _factor(d_update, PRECISION), mask=live)
            tl.store(to + 2 * D, _factor(d_candidate, PRECISION), mask=live)
            tl.store(to + 3 * D, _factor(d_recalled, PRECISION), mask=live)
            tl.store(carry_deter + at * D + column[None, :], d * update, mask=live)
        _meet(counter, arrivals)
        arrivals += programs
        # Into the GRU's input, and into the state before.
        across, beside = tl.cdiv(INP, N), tl.cdiv(D, N)
        for i in tl.range(first, row_tiles * (across + beside), programs, disable_licm=True):
            row = i // (across + beside) * M + tl.arange(0, M)
            at, j = row.to(tl.int64)[:, None], i % (across + beside)
            if j < across:
                column = j * N + tl.arange(0, N)
                live = (row < rows)[:, None] & (column < INP)[None, :]
                y = tl.zeros([M, N], tl.float32)
                y = _product(
                    y, d_gates, 4 * D, flat + W_I, INP, row, column, rows, INP, 3 * D, BLOCK_K, True, PRECISION
                )  # fmt: skip
                y *= elu_slope(tl.load(entering + (done + at) * INP + column[None, :], mask=live, other=0.0))
                tl.store(d_entering + at * INP + column[None, :], _factor(y, PRECISION), mask=live)
            else:
                column = (j - across) * N + tl.arange(0, N)
                live = (row < rows)[:, None] & (column < D)[None, :]
                to = carry_deter + at * D + column[None, :]
                y = _fresh(to, live)
                y = _product(
                    y, d_gates, 4 * D, flat + W_H, D, row, column, rows, D, 2 * D, BLOCK_K, True, PRECISION
                )  # fmt: skip
                y = _product(
                    y, d_gates + 3 * D, 4 * D, flat + W_H + 2 * D * D, D, row, column, rows, D,
                    D, BLOCK_K, True, PRECISION,
                )  # fmt: skip
                tl.store(to, y, mask=live)
        _meet(counter, arrivals)
        arrivals += programs
        # Into the sample before, and through the action into what the policy's last layer said.
        for i in tl.range(first, drawn_tiles, programs, disable_licm=True):
            row = i * SAMPLED + tl.arange(0, SAMPLED)
            at, column = row.to(tl.int64)[:, None], tl.arange(0, S_WIDTH)
            d = _product(
                tl.zeros([SAMPLED, S_WIDTH], tl.float32), d_entering, INP, flat + W_INP, S + A, row, column, rows, S,
                INP, BLOCK_K, True, PRECISION,
            )  # fmt: skip
            live = (row < rows)[:, None] & (column < S)[None, :]
            tl.store(carry_stoch + at * S + column[None, :], d, mask=live)
            column = tl.arange(0, A_WIDTH)
            d = _product(
                tl.zeros([SAMPLED, A_WIDTH], tl.float32), d_entering, INP, flat + W_INP + S, S + A, row, column, rows,
                A, INP, BLOCK_K, True, PRECISION,
            )  # fmt: skip
            live = (row < rows)[:, None] & (column < A)[None, :]
            if g_actions is not None:
                d += tl.load(g_actions + (done + at) * g_actions_stride + column[None, :], mask=live, other=0.0)
            here = (done + at) * A + column[None, :]
            action, said = tl.load(actions + here, mask=live, other=0.0), tl.load(mean + here, mask=live, other=0.0)
            d *= 1.0 - action * action
            d_std = tl.zeros([SAMPLED, A_WIDTH], tl.float32)
            if action_noise is not None:
                d_std = d * tl.load(action_noise + here, mask=live, other=0.0)
            if g_mean is not None:
                d += tl.load(g_mean + (done + at) * g_mean_stride + column[None, :], mask=live, other=0.0)
            if g_std is not None:
                d_std += tl.load(g_std + (done + at) * g_std_stride + column[None, :], mask=live, other=0.0)
            said = said / mean_scale
            to = d_policy + (done + at) * 2 * A + column[None, :]
            tl.store(to, d * (1.0 - said * said), mask=live)
            tl.store(to + A, d_std * tl.load(policy_slope + here, mask=live, other=0.0), mask=live)
        _meet(counter, arrivals)
        arrivals += programs
