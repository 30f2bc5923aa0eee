"""The networks' layers in Triton: linear with ELU, a step of the GRU, and sampling from what a layer says.

Every matrix is padded by its caller (`kernels.imagine_heads` packs them): outputs to tiles, inputs to multiples of 32,
with weights of zero. So no load of a product needs a mask, and what lies in an activation's padding must be finite, no
more. Rows are independent of each other: those of the padding may hold anything.

A layer's outputs go in tiles of N. The last program's tile may have another width, LAST, and a second one beside it,
SIDE: 400 outputs are tiles of 128, 128, and 128 with 16, so that nothing is multiplied for padding, nor an input read
once more for 16 outputs. Programs of one row of tiles follow one another: what they read stays in the cache.

PRECISION is tl.dot's (`ieee`, `tf32`); bfloat16 is what bfloat16 tensors multiply. Sums are fp32 always. What is stored
in fp32 to be multiplied has its last ROUND bits rounded away first: 13 for tf32, whose products would otherwise cut
them off; 16 for bf16 under Triton's interpreter, which cannot multiply bfloat16, but so computes the same.

The tiles are functions of their own, because two kinds of kernel consist of them: one for each layer (below), and one
for a whole rollout (`kernels.rollout`), whose programs read what others have just written (FRESH).
"""

from __future__ import annotations

import triton
import triton.language as tl

INPUTS = 32  # a step of a product; inputs of layers are padded to whole steps


@triton.jit
def product(
    total, x, x_stride, w, row, column,
    K: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr, FRESH: tl.constexpr,
):  # fmt: skip
    """total [M, N] + x[row, :K] @ w[column, :K]^T."""
    k = tl.arange(0, BLOCK_K)
    a = x + row.to(tl.int64)[:, None] * x_stride + k[None, :]
    b = w + column[None, :] * K + k[:, None]
    for _ in range(0, K, BLOCK_K):
        total = tl.dot(_seen(a, FRESH), tl.load(b), total, input_precision=PRECISION)
        a += BLOCK_K
        b += BLOCK_K
    return total


@triton.jit
def _seen(at, FRESH: tl.constexpr):
    # A multiprocessor's own cache does not see what the others write.
    return tl.load(at, cache_modifier=".cg") if FRESH else tl.load(at)


@triton.jit
def products(
    first, second, x, x_stride, w, row, column, beside,
    K: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr, FRESH: tl.constexpr,
):  # fmt: skip
    """`product` for two sets of outputs, which reads x once."""
    k = tl.arange(0, BLOCK_K)
    a = x + row.to(tl.int64)[:, None] * x_stride + k[None, :]
    b, c = w + column[None, :] * K + k[:, None], w + beside[None, :] * K + k[:, None]
    for _ in range(0, K, BLOCK_K):
        seen = _seen(a, FRESH)
        first = tl.dot(seen, tl.load(b), first, input_precision=PRECISION)
        second = tl.dot(seen, tl.load(c), second, input_precision=PRECISION)
        a += BLOCK_K
        b += BLOCK_K
        c += BLOCK_K
    return first, second


@triton.jit
def gates(
    first, second, third, x, x_stride, w, row, column, columns,
    K: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr, FRESH: tl.constexpr,
):  # fmt: skip
    """`product` for the same outputs of three gates, `columns` apart, which reads x once."""
    k = tl.arange(0, BLOCK_K)
    a = x + row.to(tl.int64)[:, None] * x_stride + k[None, :]
    b = w + column[None, :] * K + k[:, None]
    gate = columns * K
    for _ in range(0, K, BLOCK_K):
        seen = _seen(a, FRESH)
        first = tl.dot(seen, tl.load(b), first, input_precision=PRECISION)
        second = tl.dot(seen, tl.load(b + gate), second, input_precision=PRECISION)
        third = tl.dot(seen, tl.load(b + 2 * gate), third, input_precision=PRECISION)
        a += BLOCK_K
        b += BLOCK_K
    return first, second, third


@triton.jit
def keep(at, y, live, ROUND: tl.constexpr):
    """Store fp32 numbers as what `at` points to, to the nearest, ties to even; `live` None stores all."""
    if ROUND:
        bits = y.to(tl.uint32, bitcast=True)
        bits = bits + ((1 << (ROUND - 1)) - 1) + ((bits >> ROUND) & 1)
        # A NaN's bits could run over into a number.
        y = tl.where(y == y, ((bits >> ROUND) << ROUND).to(tl.float32, bitcast=True), y)
    tl.store(at, y.to(at.dtype.element_ty), mask=live)


@triton.jit
def elu(x):
    # tl.minimum would turn a NaN into 0; what overflows is not taken.
    return tl.where(x > 0, x, tl.exp(x) - 1.0)


@triton.jit
def tanh(x):
    e = tl.exp(-2.0 * tl.abs(x))
    y = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -y, y)


@triton.jit
def softplus(x):
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def linear_tile(
    x, x_stride, w, bias, row, column,
    K: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr, FRESH: tl.constexpr,
):  # fmt: skip
    """elu(x @ w^T + bias) [M, N] of rows [M] and columns [N]."""
    y = tl.zeros([row.shape[0], column.shape[0]], tl.float32)
    y = product(y, x, x_stride, w, row, column, K, BLOCK_K, PRECISION, FRESH)
    return elu(y + tl.load(bias + column)[None, :])


@triton.jit
def gru_tile(
    x, x_stride, h, h_stride, w_ih, w_hh, bias_ih, bias_hh, state, state_stride, out, out_stride, columns, units,
    row, column,
    K_X: tl.constexpr, K_H: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, ROUND: tl.constexpr, FRESH: tl.constexpr,
):  # fmt: skip
    """A step of torch.nn.GRUCell for rows [M] and columns [N] of the state.

    Matrices hold the gates' rows one gate after another, `columns` rows each. `state` is the state in fp32 and becomes
    the new one, h is what products see of the old one, and `out` gets that of the new one: its first `units` columns.
    """
    none = tl.zeros([row.shape[0], column.shape[0]], tl.float32)
    reset, update, entering = gates(
        none, none, none, x, x_stride, w_ih, row, column, columns, K_X, BLOCK_K, PRECISION, FRESH
    )
    reset, update, recalled = gates(
        reset, update, none, h, h_stride, w_hh, row, column, columns, K_H, BLOCK_K, PRECISION, FRESH
    )
    reset += (tl.load(bias_ih + column) + tl.load(bias_hh + column))[None, :]
    update += (tl.load(bias_ih + columns + column) + tl.load(bias_hh + columns + column))[None, :]
    entering += tl.load(bias_ih + 2 * columns + column)[None, :]
    recalled += tl.load(bias_hh + 2 * columns + column)[None, :]
    candidate = tanh(entering + tl.sigmoid(reset) * recalled)
    at = row.to(tl.int64)[:, None]
    held = state + at * state_stride + column[None, :]
    before = tl.load(held)
    after = candidate + tl.sigmoid(update) * (before - candidate)
    tl.store(held, after)
    keep(out + at * out_stride + column[None, :], after, (column < units)[None, :], ROUND)


@triton.jit
def sample_tile(
    x, x_stride, w, bias, noise, out, out_stride, rows, width, min_std, mean_scale, offset, row,
    K: tl.constexpr, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr,
    POLICY: tl.constexpr, NOISE: tl.constexpr, PRECISION: tl.constexpr, ROUND: tl.constexpr, FRESH: tl.constexpr,
):  # fmt: skip
    """Draw from the normal that a linear layer says, for rows [M]: out[row, :width].

    The matrix has the means' rows, then the deviations', WIDTH rows each. A latent state is mean + std * noise with
    std = softplus(.) + min_std. POLICY: an action, tanh of that, with mean = mean_scale * tanh(. / mean_scale) and
    std = softplus(. + offset) + min_std. Without NOISE there is the mean alone.

    Args:
        noise: [rows, width]; the padding's rows draw nothing and get the mean.
    """
    column = tl.arange(0, WIDTH)
    none = tl.zeros([row.shape[0], WIDTH], tl.float32)
    inside = (column < width)[None, :]
    if NOISE:
        y, std = products(none, none, x, x_stride, w, row, column, WIDTH + column, K, BLOCK_K, PRECISION, FRESH)
    else:
        y = product(none, x, x_stride, w, row, column, K, BLOCK_K, PRECISION, FRESH)
    y += tl.load(bias + column)[None, :]
    if POLICY:
        y = mean_scale * tanh(y / mean_scale)
    if NOISE:
        std = softplus(std + tl.load(bias + WIDTH + column)[None, :] + offset) + min_std
        live = (row < rows)[:, None] & inside
        y += std * tl.load(noise + row.to(tl.int64)[:, None] * width + column[None, :], mask=live, other=0.0)
    if POLICY:
        y = tanh(y)
    keep(out + row.to(tl.int64)[:, None] * out_stride + column[None, :], y, inside, ROUND)


@triton.jit
def _finish(y, out, out_stride, bias, head, row, column, HEAD: tl.constexpr, ROUND: tl.constexpr):
    """Bias and ELU of a tile; stored, or with HEAD its share of the one output [M]."""
    y = elu(y + tl.load(bias + column)[None, :])
    if HEAD:
        return tl.sum(y * tl.load(head + column)[None, :], 1)
    keep(out + row.to(tl.int64)[:, None] * out_stride + column[None, :], y, None, ROUND)
    return tl.zeros([row.shape[0]], tl.float32)


@triton.jit
def _linear_tile(
    x, x_stride, w, bias, out, out_stride, head, row, begin,
    K: tl.constexpr, N: tl.constexpr, SIDE: tl.constexpr, BLOCK_K: tl.constexpr,
    HEAD: tl.constexpr, PRECISION: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """A tile of `linear`, N columns and SIDE more; returns its share of a head."""
    column = begin + tl.arange(0, N)
    none = tl.zeros([row.shape[0], N], tl.float32)
    if SIDE:
        beside = begin + N + tl.arange(0, SIDE)
        less = tl.zeros([row.shape[0], SIDE], tl.float32)
        y, z = products(none, less, x, x_stride, w, row, column, beside, K, BLOCK_K, PRECISION, False)
        share = _finish(y, out, out_stride, bias, head, row, column, HEAD, ROUND)
        share += _finish(z, out, out_stride, bias, head, row, beside, HEAD, ROUND)
    else:
        y = product(none, x, x_stride, w, row, column, K, BLOCK_K, PRECISION, False)
        share = _finish(y, out, out_stride, bias, head, row, column, HEAD, ROUND)
    return share


@triton.jit
def linear(
    x, x_stride, w, bias, out, out_stride, head, head_bias, partial, rows,
    K: tl.constexpr, M: tl.constexpr, N: tl.constexpr, LAST: tl.constexpr, SIDE: tl.constexpr, BLOCK_K: tl.constexpr,
    HEAD: tl.constexpr, PRECISION: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """out[row, column] = elu(x @ w^T + bias), a program an M x N tile.

    With HEAD nothing is stored of it: `partial[tile of columns, row]` is the tile's share of its product with the one
    output `head` [columns], the first share with the output's bias.
    """
    tile = tl.program_id(0)
    row, begin = tl.program_id(1) * M + tl.arange(0, M), tile * N
    if LAST + SIDE == N or tile < tl.num_programs(0) - 1:  # all are alike
        share = _linear_tile(
            x, x_stride, w, bias, out, out_stride, head, row, begin, K, N, 0, BLOCK_K, HEAD, PRECISION, ROUND
        )
    else:
        share = _linear_tile(
            x, x_stride, w, bias, out, out_stride, head, row, begin, K, LAST, SIDE, BLOCK_K, HEAD, PRECISION, ROUND
        )
    if HEAD:
        if tile == 0:
            share += tl.load(head_bias)
        tl.store(partial + tile.to(tl.int64) * rows + row, share)


@triton.jit
def gru(
    x, x_stride, h, h_stride, w_ih, w_hh, bias_ih, bias_hh, state, state_stride, out, out_stride, columns, units,
    K_X: tl.constexpr, K_H: tl.constexpr, M: tl.constexpr, N: tl.constexpr, LAST: tl.constexpr, SIDE: tl.constexpr,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """`gru_tile` of the whole state, a program an M x N tile."""
    tile = tl.program_id(0)
    row, begin = tl.program_id(1) * M + tl.arange(0, M), tile * N
    if LAST + SIDE == N or tile < tl.num_programs(0) - 1:
        gru_tile(
            x, x_stride, h, h_stride, w_ih, w_hh, bias_ih, bias_hh, state, state_stride, out, out_stride, columns,
            units, row, begin + tl.arange(0, N), K_X, K_H, BLOCK_K, PRECISION, ROUND, False,
        )  # fmt: skip
    else:
        gru_tile(
            x, x_stride, h, h_stride, w_ih, w_hh, bias_ih, bias_hh, state, state_stride, out, out_stride, columns,
            units, row, begin + tl.arange(0, LAST), K_X, K_H, BLOCK_K, PRECISION, ROUND, False,
        )  # fmt: skip
        if SIDE:
            gru_tile(
                x, x_stride, h, h_stride, w_ih, w_hh, bias_ih, bias_hh, state, state_stride, out, out_stride, columns,
                units, row, begin + LAST + tl.arange(0, SIDE), K_X, K_H, BLOCK_K, PRECISION, ROUND, False,
            )  # fmt: skip


@triton.jit
def sample(
    x, x_stride, w, bias, noise, out, out_stride, rows, width, min_std, mean_scale, offset,
    K: tl.constexpr, M: tl.constexpr, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr,
    POLICY: tl.constexpr, NOISE: tl.constexpr, PRECISION: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """`sample_tile` of all rows, a program M of them."""
    row = tl.program_id(0) * M + tl.arange(0, M)
    sample_tile(
        x, x_stride, w, bias, noise, out, out_stride, rows, width, min_std, mean_scale, offset, row,
        K, WIDTH, BLOCK_K, POLICY, NOISE, PRECISION, ROUND, False,
    )  # fmt: skip
