"""Normal numbers by Philox4x32-10 and Box-Muller in Triton: the same bits as `lsp_fast.ops.philox` and the C++ engine.

The key stays on the device, so that a captured graph draws new numbers when it changes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, BLOCKS = 32, 8


@triton.jit
def _horner(x, total, c):
    return total * x + c


@triton.jit
def box_muller(a, b):
    """Two words -> two normal numbers. Products and sums must not be fused: launch with enable_fp_fusion=False."""
    u = ((a >> 8) + 1).to(tl.float32)  # times 2^-24
    bits = u.to(tl.uint32, bitcast=True)
    m = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)  # [1, 2)
    exponent = (bits >> 23).to(tl.int32) - 151
    large = m > 1.41421356
    m = tl.where(large, m * 0.5, m)
    e = tl.where(large, exponent + 1, exponent).to(tl.float32)
    x = m - 1.0
    z = x * x
    p = _horner(x, 7.0376836292e-2, -1.1514610310e-1)
    p = _horner(x, p, 1.1676998740e-1)
    p = _horner(x, p, -1.2420140846e-1)
    p = _horner(x, p, 1.4249322787e-1)
    p = _horner(x, p, -1.6668057665e-1)
    p = _horner(x, p, 2.0000714765e-1)
    p = _horner(x, p, -2.4999993993e-1)
    p = _horner(x, p, 3.3333331174e-1)
    p = (p * x * z + e * -2.12194440e-4) - z * 0.5
    radius = tl.sqrt_rn((e * 0.693359375 + (x + p)) * -2.0)

    word = (b >> 8).to(tl.int32)
    quarter = (word + 0x200000) >> 22  # 0 .. 4 quarters of a turn, and at most half a one
    angle = (word - (quarter << 22)).to(tl.float32) * 2.384185791015625e-7 * 1.57079632679
    w = angle * angle
    s = _horner(w, _horner(w, -1.9515295891e-4, 8.3321608736e-3), -1.6666654611e-1)
    s = s * w * angle + angle
    c = _horner(w, _horner(w, 2.443315711809948e-5, -1.388731625493765e-3), 4.166664568298827e-2)
    c = c * w * w - w * 0.5 + 1.0
    turned = (quarter & 1) == 1
    cosine = tl.where(turned, s, c)
    sine = tl.where(turned, c, s)
    cosine = tl.where(((quarter + 1) & 2) == 2, -cosine, cosine)
    sine = tl.where((quarter & 2) == 2, -sine, sine)
    return radius * cosine, radius * sine


@triton.jit
def _normals(key, out, stream, first_step, rows, columns, ROWS: tl.constexpr, BLOCKS: tl.constexpr):
    step, row = tl.program_id(0), tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    block = tl.program_id(2) * BLOCKS + tl.arange(0, BLOCKS)[None, :]
    none = tl.zeros([ROWS, BLOCKS], tl.uint32)
    seed = tl.load(key).to(tl.uint64) | (tl.load(key + 1).to(tl.uint64) << 32)
    counter = none + block.to(tl.uint32), none + row.to(tl.uint32)
    # A number that happens to be 1 comes in as a constant, which has no methods.
    counted = (none.to(tl.int64) + (step + first_step)).to(tl.uint32)
    c0, c1, c2, c3 = tl.philox(seed, *counter, counted, (none.to(tl.int64) + stream).to(tl.uint32))
    at = out + (step.to(tl.int64) * rows + row) * columns + 4 * block
    x0, x1 = box_muller(c0, c1)
    x2, x3 = box_muller(c2, c3)
    live = (row < rows) & (4 * block < columns)
    tl.store(at, x0, mask=live)
    tl.store(at + 1, x1, mask=live & (4 * block + 1 < columns))
    tl.store(at + 2, x2, mask=live & (4 * block + 2 < columns))
    tl.store(at + 3, x3, mask=live & (4 * block + 3 < columns))


def normals(key: Tensor, stream: int, first_step: int, steps: int, rows: int, columns: int) -> Tensor:
    """`lsp_fast.ops.philox.normals`, [steps, rows, columns] float32 on the key's device."""
    numbers = torch.empty(steps, rows, columns, device=key.device)
    if numbers.numel():
        grid = (steps, triton.cdiv(rows, ROWS), triton.cdiv(columns, 4 * BLOCKS))
        _normals[grid](key, numbers, stream, first_step, rows, columns, ROWS, BLOCKS, enable_fp_fusion=False)
    return numbers
