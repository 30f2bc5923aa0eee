"""Densities of diagonal normals in Triton: a kernel each way, a program for some rows.

Rows of inputs may lie apart (`stride`), as those of a mean and a deviation do that are halves of one output; the
numbers of a row follow one another. Gradients are found anew from the inputs, so that nothing else is kept.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .layers import softplus, tanh

HALF_LOG_TAU = tl.constexpr(0.5 * math.log(2 * math.pi))
LOG_2 = tl.constexpr(math.log(2))
NUMBERS = 512  # of a program
COLUMNS = 128  # at a time, at most


@triton.jit
def _softly(raw, low, high):
    """A log variance clamped between bounds, of a raw log deviation, and half its slope."""
    upper = high - softplus(high - 2.0 * raw)
    return low + softplus(upper - low), tl.sigmoid(upper - low) * tl.sigmoid(high - 2.0 * raw)


@triton.jit
def _log_prob(
    raw, raw_stride, x, x_stride, out, low, high, rows, width, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * M + tl.arange(0, M)
    at, total = row.to(tl.int64)[:, None], tl.zeros([M], tl.float32)
    for begin in range(0, width, N):
        column = begin + tl.arange(0, N)[None, :]
        live = (row < rows)[:, None] & (column < width)
        mean = tl.load(raw + at * raw_stride + column, mask=live, other=0.0)
        log_variance, _ = _softly(
            tl.load(raw + at * raw_stride + width + column, mask=live, other=0.0), low, high
        )  # fmt: skip
        off = (tl.load(x + at * x_stride + column, mask=live, other=0.0) - mean) * tl.exp(-0.5 * log_variance)
        total += tl.sum(tl.where(live, -0.5 * (off * off + log_variance) - HALF_LOG_TAU, 0.0), 1)
    tl.store(out + row, total, mask=row < rows)


@triton.jit
def _log_prob_backward(
    raw, raw_stride, x, x_stride, grad, grad_stride, d_raw, low, high, rows, width,
    M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * M + tl.arange(0, M)
    at = row.to(tl.int64)[:, None]
    given = tl.load(grad + row.to(tl.int64) * grad_stride, mask=row < rows, other=0.0)[:, None]
    for begin in range(0, width, N):
        column = begin + tl.arange(0, N)[None, :]
        live = (row < rows)[:, None] & (column < width)
        mean = tl.load(raw + at * raw_stride + column, mask=live, other=0.0)
        log_variance, slope = _softly(
            tl.load(raw + at * raw_stride + width + column, mask=live, other=0.0), low, high
        )  # fmt: skip
        scale = tl.exp(-0.5 * log_variance)
        off = (tl.load(x + at * x_stride + column, mask=live, other=0.0) - mean) * scale
        to = d_raw + at * 2 * width + column
        tl.store(to, given * off * scale, mask=live)
        tl.store(to + width, given * (off * off - 1.0) * slope, mask=live)


@triton.jit
def _kl(
    p, p_stride, p_std, p_std_stride, q, q_stride, q_std, q_std_stride, out, rows, width,
    M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * M + tl.arange(0, M)
    at, total = row.to(tl.int64)[:, None], tl.zeros([M], tl.float32)
    for begin in range(0, width, N):
        column = begin + tl.arange(0, N)[None, :]
        live = (row < rows)[:, None] & (column < width)
        inverse = 1.0 / tl.load(q_std + at * q_std_stride + column, mask=live, other=1.0)
        ratio = tl.load(p_std + at * p_std_stride + column, mask=live, other=1.0) * inverse
        apart = tl.load(p + at * p_stride + column, mask=live, other=0.0)
        apart = (apart - tl.load(q + at * q_stride + column, mask=live, other=0.0)) * inverse
        # The ratio's square may be too small for a logarithm.
        total += tl.sum(tl.where(live, 0.5 * (ratio * ratio + apart * apart - 1.0) - tl.log(ratio), 0.0), 1)
    tl.store(out + row, total, mask=row < rows)


@triton.jit
def _kl_backward(
    p, p_stride, p_std, p_std_stride, q, q_stride, q_std, q_std_stride, grad, grad_stride,
    d_p, d_p_std, d_q, d_q_std, rows, width, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * M + tl.arange(0, M)
    at = row.to(tl.int64)[:, None]
    given = tl.load(grad + row.to(tl.int64) * grad_stride, mask=row < rows, other=0.0)[:, None]
    for begin in range(0, width, N):
        column = begin + tl.arange(0, N)[None, :]
        live = (row < rows)[:, None] & (column < width)
        inverse = 1.0 / tl.load(q_std + at * q_std_stride + column, mask=live, other=1.0)
        own = tl.load(p_std + at * p_std_stride + column, mask=live, other=1.0)
        ratio = own * inverse
        apart = tl.load(p + at * p_stride + column, mask=live, other=0.0)
        apart = (apart - tl.load(q + at * q_stride + column, mask=live, other=0.0)) * inverse
        to = at * width + column
        if d_p is not None:
            tl.store(d_p + to, given * apart * inverse, mask=live)
        if d_p_std is not None:
            tl.store(d_p_std + to, given * (ratio * inverse - 1.0 / own), mask=live)
        if d_q is not None:
            tl.store(d_q + to, -given * apart * inverse, mask=live)
        if d_q_std is not None:
            tl.store(d_q_std + to, given * (1.0 - ratio * ratio - apart * apart) * inverse, mask=live)


@triton.jit
def _entropy(
    mean, mean_stride, std, std_stride, noise, noise_stride, out, rows, width, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * M + tl.arange(0, M)
    at, total = row.to(tl.int64)[:, None], tl.zeros([M], tl.float32)
    for begin in range(0, width, N):
        column = begin + tl.arange(0, N)[None, :]
        live = (row < rows)[:, None] & (column < width)
        deviation = tl.load(std + at * std_stride + column, mask=live, other=1.0)
        drawn = tl.load(noise + at * noise_stride + column, mask=live, other=0.0)
        action = tl.load(mean + at * mean_stride + column, mask=live, other=0.0) + deviation * drawn
        # log |d tanh|
        slope = 2.0 * (LOG_2 - action - softplus(-2.0 * action))
        term = 0.5 * drawn * drawn + tl.log(deviation) + HALF_LOG_TAU + slope
        total += tl.sum(tl.where(live, term, 0.0), 1)
    tl.store(out + row, total, mask=row < rows)


@triton.jit
def _entropy_backward(
    mean, mean_stride, std, std_stride, noise, noise_stride, grad, grad_stride, d_mean, d_std, rows, width,
    M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * M + tl.arange(0, M)
    at = row.to(tl.int64)[:, None]
    given = tl.load(grad + row.to(tl.int64) * grad_stride, mask=row < rows, other=0.0)[:, None]
    for begin in range(0, width, N):
        column = begin + tl.arange(0, N)[None, :]
        live = (row < rows)[:, None] & (column < width)
        deviation = tl.load(std + at * std_stride + column, mask=live, other=1.0)
        drawn = tl.load(noise + at * noise_stride + column, mask=live, other=0.0)
        action = tl.load(mean + at * mean_stride + column, mask=live, other=0.0) + deviation * drawn
        to_mean, to = -2.0 * tanh(action), at * width + column
        tl.store(d_mean + to, given * to_mean, mask=live)
        tl.store(d_std + to, given * (to_mean * drawn + 1.0 / deviation), mask=live)


def log_prob(raw: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """raw [rows, 2D], x [rows, D], float32 -> [rows]; `low` and `high` bound the log variance."""
    out = _empty(x)
    _run(_log_prob, x.shape, raw, raw.stride(0), x, x.stride(0), out, low, high)
    return out


def log_prob_backward(raw: Tensor, x: Tensor, grad: Tensor, low: float, high: float) -> Tensor:
    """The gradient of `raw`, [rows, 2D], from that of the rows."""
    out = _empty(x, 2 * x.shape[1])
    _run(
        _log_prob_backward, x.shape, raw, raw.stride(0), x, x.stride(0), grad, grad.stride(0), out, low, high,
    )  # fmt: skip
    return out


def kl_divergence(p: Tensor, p_std: Tensor, q: Tensor, q_std: Tensor) -> Tensor:
    """KL(p || q) of means and deviations [rows, D], float32 -> [rows]."""
    out = _empty(p)
    _run(_kl, p.shape, *_strided(p, p_std, q, q_std), out)
    return out


def kl_divergence_backward(
    p: Tensor, p_std: Tensor, q: Tensor, q_std: Tensor, grad: Tensor, wanted: tuple[bool, ...]
) -> list[Tensor | None]:
    """Gradients [rows, D] of those of the four that are wanted."""
    out = [_empty(p, p.shape[1]) if want else None for want in wanted]
    _run(_kl_backward, p.shape, *_strided(p, p_std, q, q_std), grad, grad.stride(0), *out)
    return out


def entropy(mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
    """Minus the log density of tanh(mean + std * noise), [rows, D] each, float32 -> [rows]."""
    out = _empty(mean)
    _run(_entropy, mean.shape, *_strided(mean, std, noise), out)
    return out


def entropy_backward(mean: Tensor, std: Tensor, noise: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of mean and std, [rows, D] each."""
    out = _empty(mean, mean.shape[1]), _empty(mean, mean.shape[1])
    _run(_entropy_backward, mean.shape, *_strided(mean, std, noise), grad, grad.stride(0), *out)
    return out


def block(width: int) -> tuple[int, int]:
    """Rows of a program, and columns that it takes at a time."""
    columns = min(triton.next_power_of_2(width), COLUMNS)
    return NUMBERS // columns, columns


def _empty(like: Tensor, *width: int) -> Tensor:
    return torch.empty(like.shape[0], *width, device=like.device)


def _strided(*tensors: Tensor) -> list[Any]:
    """Each with the distance of its rows."""
    return [part for x in tensors for part in (x, x.stride(0))]


def _run(kernel: Any, shape: torch.Size, *arguments: Any) -> None:
    rows, width = shape
    m, n = block(width)
    kernel[(triton.cdiv(rows, m),)](*arguments, rows, width, M=m, N=n, enable_fp_fusion=True)
