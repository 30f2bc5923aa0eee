"""Tiles of layers whose tensors lie in memory as PyTorch has them: what is read beyond an edge is masked to 0.

For learning, where weights change with every update: nothing is packed or padded for it (`kernels.layers` is for
weights that many calls share). PRECISION is tl.dot's, `ieee` or `tf32`; sums are fp32. Rows `at` are int64.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def multiply(a, b, total, PRECISION: tl.constexpr):
    """total + a @ b."""
    if PRECISION == "tf32":  # the product would cut bits off that are rounded here
        a, b = rounded(a), rounded(b)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def rounded(y):
    """fp32 numbers as tf32 has them, to the nearest, ties to even."""
    bits = y.to(tl.uint32, bitcast=True)
    bits = ((bits + 0xFFF + ((bits >> 13) & 1)) >> 13) << 13
    # A NaN's bits could run over into a number.
    return tl.where(y == y, bits.to(tl.float32, bitcast=True), y)


@triton.jit
def read(x, x_stride, at, live, k, K: tl.constexpr):
    """x[at, k], which another program may have written: a multiprocessor's own cache does not see that."""
    inside = live[:, None] & (k < K)[None, :]
    return tl.load(x + at[:, None] * x_stride + k[None, :], mask=inside, other=0.0, cache_modifier=".cg")


@triton.jit
def weights(w, k, column, K: tl.constexpr, COLUMNS: tl.constexpr, BY_INPUT: tl.constexpr, BY_OUTPUT: tl.constexpr):
    """Weights [k, column] of a product, of inputs and outputs that lie so far apart."""
    inside = (k < K)[:, None] & (column < COLUMNS)[None, :]
    return tl.load(w + k[:, None] * BY_INPUT + column[None, :] * BY_OUTPUT, mask=inside, other=0.0)


@triton.jit
def product(
    total, x, x_stride, at, live, w, column,
    K: tl.constexpr, COLUMNS: tl.constexpr, BY_INPUT: tl.constexpr, BY_OUTPUT: tl.constexpr,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """total [M, N] + x[at, :K] @ w[:K, column]."""
    for begin in range(0, K, BLOCK_K):
        k = begin + tl.arange(0, BLOCK_K)
        a = read(x, x_stride, at, live, k, K)
        total = multiply(a, weights(w, k, column, K, COLUMNS, BY_INPUT, BY_OUTPUT), total, PRECISION)
    return total


@triton.jit
def three_products(
    first, second, third, x, at, live, w, column,
    K: tl.constexpr, D: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`product` for the same units of three gates [3D, K], which reads x [., K] once."""
    for begin in range(0, K, BLOCK_K):
        k = begin + tl.arange(0, BLOCK_K)
        a = read(x, K, at, live, k, K)
        first = multiply(a, weights(w, k, column, K, D, 1, K), first, PRECISION)
        second = multiply(a, weights(w + D * K, k, column, K, D, 1, K), second, PRECISION)
        third = multiply(a, weights(w + 2 * D * K, k, column, K, D, 1, K), third, PRECISION)
    return first, second, third


@triton.jit
def given(grad, stride, at, column, stored):
    """A gradient from outside, where there is one."""
    y = tl.zeros([at.shape[0], column.shape[0]], tl.float32)
    if grad is not None:
        y = tl.load(grad + at[:, None] * stride + column[None, :], mask=stored, other=0.0)
    return y


@triton.jit
def elu_slope(y):
    """d elu(x) / dx by its value y."""
    return tl.where(y > 0, 1.0, y + 1.0)
