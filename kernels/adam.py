"""Adam along clipped gradients in Triton: the norm, and then all of a module's tensors in one kernel.

Gradients come as one row of numbers. Where a parameter and its moments lie is a table of addresses on the GPU, which
holds as long as they stay where they are. So a captured step goes on with the same memory.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # numbers of a program; a tensor begins with a program of its own
PARTS = 256  # programs of the norm
FIELDS = tl.constexpr(6)  # of a row of the table: parameter, its two moments, its step, its numbers before, and after


@triton.jit
def _norm(gradients, partial, table, size, tensors, BLOCK: tl.constexpr, TENSORS: tl.constexpr):
    """partial[program] <- the sum of squares of every so manieth block; the first program counts the step."""
    part, total = tl.program_id(0), tl.zeros([BLOCK], tl.float32)
    for begin in range(part * BLOCK, size, tl.num_programs(0) * BLOCK):
        at = begin + tl.arange(0, BLOCK)
        g = tl.load(gradients + at, mask=at < size, other=0.0)
        total += g * g
    tl.store(partial + part, tl.sum(total, 0))
    if part == 0:
        tensor = tl.arange(0, TENSORS)
        live = tensor < tensors
        # A tensor's step may lie anywhere.
        step = tl.load(table + tensor * FIELDS + 3, mask=live, other=0).to(tl.pointer_type(tl.float32))
        tl.store(step, tl.load(step, mask=live, other=0.0) + 1.0, mask=live)


@triton.jit
def _step(
    gradients, partial, table, owner, norm, max_norm, rate, keep_first, keep_second, log_first, log_second, eps,
    parts, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """A step for one block of one tensor; `owner` [programs, 2] says which row of the table, and which block of it."""
    row = table + tl.load(owner + 2 * tl.program_id(0)) * FIELDS
    block = tl.load(owner + 2 * tl.program_id(0) + 1)
    part = tl.arange(0, PARTS)
    found = tl.sqrt_rn(tl.sum(tl.load(partial + part, mask=part < parts, other=0.0), 0))
    if tl.program_id(0) == 0:
        tl.store(norm, found)
    factor = max_norm / (found + 1e-6)
    factor = tl.where(factor > 1.0, 1.0, factor)  # tl.minimum would turn a NaN into 1
    p = tl.load(row).to(tl.pointer_type(tl.float32))
    first, second = tl.load(row + 1).to(tl.pointer_type(tl.float32)), tl.load(row + 2).to(tl.pointer_type(tl.float32))
    # In float64: what is left of 1 - 0.999^t has few digits else.
    t = tl.load(tl.load(row + 3).to(tl.pointer_type(tl.float32))).to(tl.float64)
    correction = (1.0 - tl.exp(t * tl.cast(log_second, tl.float64))).to(tl.float32)
    size = rate / (1.0 - tl.exp(t * tl.cast(log_first, tl.float64))).to(tl.float32)
    begin, end = tl.load(row + 4), tl.load(row + 5)
    at = block * BLOCK + tl.arange(0, BLOCK)
    live = at < end - begin
    g = factor * tl.load(gradients + begin + at, mask=live, other=0.0)
    m = tl.load(first + at, mask=live, other=0.0)
    v = tl.load(second + at, mask=live, other=0.0)
    m = m + keep_first * (g - m)
    v = v + keep_second * (g * g - v)
    tl.store(first + at, m, mask=live)
    tl.store(second + at, v, mask=live)
    down = size * m / (tl.sqrt_rn(v) / tl.sqrt_rn(correction) + eps)
    tl.store(p + at, tl.load(p + at, mask=live, other=0.0) - down, mask=live)


def tables(tensors: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> tuple[list[list[int]], list[list[int]]]:
    """Rows of addresses, [tensors, 6], and each block's row and number, [blocks, 2], of contiguous float32 tensors:
    parameter, first moment, second moment, step."""
    rows, owners, before = [], [], 0
    for i, (p, first, second, step) in enumerate(tensors):
        rows.append([x.data_ptr() for x in (p, first, second, step)] + [before, before + p.numel()])
        owners += [[i, block] for block in range(triton.cdiv(p.numel(), BLOCK))]
        before += p.numel()
    return rows, owners


def step(
    gradients: Tensor, table: Tensor, owner: Tensor, max_norm: float, rate: float, betas: tuple[float, float],
    eps: float,
) -> Tensor:  # fmt: skip
    """Take one step along gradients [numbers], in the table's order, clipped to that norm; returns the norm, 0-d.

    Args:
        table, owner: int64 on the gradients' device, as `tables` says.
    """
    size, device = len(gradients), gradients.device
    parts = min(PARTS, triton.cdiv(size, BLOCK))
    partial, norm = torch.empty(parts, device=device), torch.empty((), device=device)
    _norm[(parts,)](
        gradients, partial, table, size, len(table), BLOCK=BLOCK, TENSORS=triton.next_power_of_2(len(table)),
        enable_fp_fusion=True,
    )  # fmt: skip
    _step[(len(owner),)](
        gradients, partial, table, owner, norm, max_norm, rate, 1 - betas[0], 1 - betas[1], math.log(betas[0]),
        math.log(betas[1]), eps, parts, BLOCK=BLOCK, PARTS=PARTS, enable_fp_fusion=True,
    )  # fmt: skip
    return norm
