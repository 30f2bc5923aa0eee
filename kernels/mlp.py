"""What stands between the products of an MLP's layers in Triton: bias and ELU forward, ELU's slope and a bias's
gradient backward. Products are PyTorch's own, in the precision that it is set to.

Forward keeps activations alone, 4 bytes for each row and unit: ELU's slope follows from its value. Backward sums a
bias's gradient over the rows of each program; all layers' sums become gradients together, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

ROWS = 128  # of a program
COLUMNS = 128  # of a program, at most
NUMBERS = 1024  # at a time


@triton.jit
def elu(x):
    """As `layers.elu`, near 0 to all digits, too."""
    small = x * (1.0 + x * (0.5 + x * (1.0 / 6 + x * (1.0 / 24 + x * (1.0 / 120)))))
    return tl.where(x > 0, x, tl.where(x > -0.1, small, tl.exp(x) - 1.0))


@triton.jit
def elu_slope(y):
    """d elu(x) / dx by its value y."""
    # tl.minimum would lose a NaN.
    return tl.where(y > 0, 1.0, y + 1.0)


@triton.jit
def _bias_elu(y, bias, rows, width, ROWS: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    """y <- elu(y + bias), [rows, width]."""
    column = tl.program_id(1) * N + tl.arange(0, N)
    shift = tl.load(bias + column, mask=column < width, other=0.0)[None, :]
    for begin in range(0, ROWS, M):
        row = tl.program_id(0) * ROWS + begin + tl.arange(0, M)
        at = y + row.to(tl.int64)[:, None] * width + column[None, :]
        live = (row < rows)[:, None] & (column < width)[None, :]
        tl.store(at, elu(tl.load(at, mask=live, other=0.0) + shift), mask=live)


@triton.jit
def _before_elu(
    d, y, out, partial, partial_stride, rows, width, ROWS: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """out <- d elu'(.) by ELU's value y, where there is one; partial[program] <- its rows' sum, where it is wanted."""
    column = tl.program_id(1) * N + tl.arange(0, N)
    total = tl.zeros([N], tl.float32)
    for begin in range(0, ROWS, M):
        row = tl.program_id(0) * ROWS + begin + tl.arange(0, M)
        at = row.to(tl.int64)[:, None] * width + column[None, :]
        live = (row < rows)[:, None] & (column < width)[None, :]
        slope = tl.load(d + at, mask=live, other=0.0)
        if y is not None:
            slope *= elu_slope(tl.load(y + at, mask=live, other=0.0))
            tl.store(out + at, slope, mask=live)
        total += tl.sum(slope, 0)
    if partial is not None:
        tl.store(partial + tl.program_id(0).to(tl.int64) * partial_stride + column, total, mask=column < width)


def block(width: int) -> tuple[int, int]:
    """Rows and columns that a program takes at a time."""
    columns = min(triton.next_power_of_2(width), COLUMNS)
    return min(ROWS, NUMBERS // columns), columns


def _launch(kernel, rows: int, width: int, *arguments) -> None:
    m, n = block(width)
    kernel[triton.cdiv(rows, ROWS), triton.cdiv(width, n)](
        *arguments, rows, width, ROWS=ROWS, M=m, N=n, enable_fp_fusion=True
    )


def forward(x: Tensor, layers: Sequence[tuple[Tensor, Tensor]], linear_out: bool) -> list[Tensor]:
    """Every layer's value [rows, .] of x [rows, in], float32 and contiguous; the last is the result.

    Args:
        layers: weight [out, in] and bias [out], which may lie in any steps.
        linear_out: the last has no ELU.
    """
    values = []
    for i, (weight, bias) in enumerate(layers):
        if linear_out and i == len(layers) - 1:
            values.append(F.linear(x, weight, bias))
        else:
            x = torch.mm(x, weight.T)
            _launch(_bias_elu, *x.shape, x, bias.contiguous())
            values.append(x)
    return values


def backward(
    d: Tensor, x: Tensor, values: Sequence[Tensor], weights: Sequence[Tensor], linear_out: bool,
    want_x: bool, want_weights: bool,
) -> tuple[Tensor | None, list[Tensor]]:  # fmt: skip
    """The gradient of x, where it is wanted, and those of all weights and biases in turns, or none.

    Args:
        d: of the last value [rows, out], contiguous; it stays as it is.
        values: the hidden ones among what `forward` returned; the last one where it has an ELU.
    """
    widths = [len(weight) for weight in weights]
    rows, total = len(d), sum(widths)
    partial = torch.empty(triton.cdiv(rows, ROWS), total, device=d.device) if want_weights else None
    d_weights = []
    for i in reversed(range(len(weights))):
        at = sum(widths[:i])
        sums = None if partial is None else partial[:, at : at + widths[i]]
        if linear_out and i == len(weights) - 1:
            if sums is not None:
                _launch(_before_elu, rows, widths[i], d, None, None, sums, total)
        else:
            # What a product gave is ours to change.
            out = torch.empty_like(d) if i == len(weights) - 1 else d
            _launch(_before_elu, rows, widths[i], d, values[i], out, sums, total)
            d = out
        if want_weights:
            d_weights.append(torch.mm(d.T, values[i - 1] if i else x))
        if i or want_x:
            d = torch.mm(d, weights[i])
    if partial is None:
        return (d if want_x else None), []
    d_biases = partial.sum(0).split(widths)
    both = zip(reversed(d_weights), d_biases, strict=True)
    return (d if want_x else None), [gradient for pair in both for gradient in pair]
