"""Normal distributions that a layer says, in Triton: mean and deviation of all rows in one kernel each way."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .layers import softplus

BLOCK = 1024


@triton.jit
def _forward(raw, mean, std, min_std, rows, S: tl.constexpr, BLOCK: tl.constexpr):
    """mean, softplus(.) + min_std of raw [rows, 2S]."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = at < rows * S
    given = raw + (at // S) * (2 * S) + at % S
    tl.store(mean + at, tl.load(given, mask=live), mask=live)
    tl.store(std + at, softplus(tl.load(given + S, mask=live)) + min_std, mask=live)


@triton.jit
def _backward(raw, d_mean, d_mean_row, d_std, d_std_row, d, d_row, rows, S: tl.constexpr, BLOCK: tl.constexpr):
    """Gradient of `_forward`, into d[rows, :2S] of a larger tensor."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = at < rows * S
    row, column = (at // S).to(tl.int64), at % S
    m, s = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    if d_mean is not None:
        m = tl.load(d_mean + row * d_mean_row + column, mask=live)
    if d_std is not None:
        s = tl.load(d_std + row * d_std_row + column, mask=live)
        s *= tl.sigmoid(tl.load(raw + row * (2 * S) + S + column, mask=live))
    tl.store(d + row * d_row + column, m, mask=live)
    tl.store(d + row * d_row + S + column, s, mask=live)


def forward(raw: Tensor, min_std: float) -> tuple[Tensor, Tensor]:
    """[..., 2S], contiguous -> mean, softplus(.) + min_std, each [..., S]."""
    s = raw.shape[-1] // 2
    mean, std = (raw.new_empty(*raw.shape[:-1], s) for _ in range(2))
    _forward[(triton.cdiv(mean.numel(), BLOCK),)](
        raw, mean, std, min_std, mean.numel() // s, S=s, BLOCK=BLOCK, enable_fp_fusion=True
    )
    return mean, std


def backward(raw: Tensor, d_mean: Tensor | None, d_std: Tensor | None, d: Tensor) -> None:
    """Gradient of `forward`, into d [rows, 2S], part of a larger tensor; those given [rows, S], each row contiguous."""
    s = d.shape[1] // 2
    given = (x for g in (d_mean, d_std) for x in (g, 0 if g is None else g.stride(0)))
    _backward[(triton.cdiv(len(d) * s, BLOCK),)](
        raw, *given, d, d.stride(0), len(d), S=s, BLOCK=BLOCK, enable_fp_fusion=True
    )
