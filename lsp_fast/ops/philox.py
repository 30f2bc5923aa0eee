"""Normal numbers as a function of a key and a counter: contract and plain PyTorch reference.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011) makes of a key of two
words and a counter of four a block of four words, each of 32 bits. Our counter is (column // 4, row, step, stream), and
the words are the columns 4c .. 4c + 3. Two words make two normal numbers (Box and Muller 1958). Every operation is one
that all processors round alike, so that the numbers are the same to the bit wherever they are computed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lsp_fast.ops.types import PlanKey, PlanNoise

CANDIDATES, STOCH, ACTION = range(3)
"""A plan's streams. A step counts all iterations' steps (for candidates, the iterations); a row is a candidate, or a
state whose candidates share their noise."""

_MASK = 0xFFFFFFFF


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: words of 32 bits as int64, [...] each; key [2] -> four words [...]."""
    c0, c1, c2, c3 = counter
    k0, k1 = key[0], key[1]
    for _ in range(10):
        # Products of 64 bits wrap around to the right bits in int64.
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32 & _MASK) ^ c1 ^ k0, b & _MASK, (a >> 32 & _MASK) ^ c3 ^ k1, a & _MASK
        k0, k1 = k0 + 0x9E3779B9 & _MASK, k1 + 0xBB67AE85 & _MASK
    return c0, c1, c2, c3


def box_muller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two words (their upper 24 bits) -> two normal numbers, float32: sqrt(-2 log u) times cos 2 pi t and sin 2 pi t,
    u in (0, 1], t in [0, 1).

    Polynomials after Cephes' logf, sinf and cosf, written out so that every product and sum is rounded.
    """
    u = ((a >> 8) + 1).to(torch.float32)  # times 2^-24
    m, exponent = torch.frexp(u)  # m in [0.5, 1)
    large = m > 0.70710678
    m, exponent = torch.where(large, m, m * 2), torch.where(large, exponent, exponent - 1)  # [0.7071, 1.4142]
    e, x = (exponent - 24).to(torch.float32), m - 1
    z = x * x
    p = torch.full_like(x, 7.0376836292e-2)
    for c in (
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    ):
        p = p * x + c
    p = (p * x * z + e * -2.12194440e-4) - z * 0.5
    # PyTorch's own square root in float32 is not always the nearest number.
    radius = ((e * 0.693359375 + (x + p)) * -2).double().sqrt().float()

    word = b >> 8
    quarter = (word + 0x200000) >> 22  # 0 .. 4 quarters of a turn, and at most half a one
    angle = (word - (quarter << 22)).to(torch.float32) * 2.0**-22 * 1.57079632679
    w = angle * angle
    s = (w * -1.9515295891e-4 + 8.3321608736e-3) * w - 1.6666654611e-1
    s = s * w * angle + angle
    c = (w * 2.443315711809948e-5 - 1.388731625493765e-3) * w + 4.166664568298827e-2
    c = c * w * w - w * 0.5 + 1
    turned = quarter % 2 == 1
    cosine, sine = torch.where(turned, s, c), torch.where(turned, c, s)
    cosine = torch.where((quarter + 1) & 2 == 2, -cosine, cosine)
    sine = torch.where(quarter & 2 == 2, -sine, sine)
    return radius * cosine, radius * sine


def normals(key: Tensor, stream: int, first_step: int, steps: int, rows: int, columns: int) -> Tensor:
    """Standard normal numbers.

    Args:
        key: [2] int64, words of 32 bits; the numbers are on its device.
        stream, first_step, steps, rows, columns: the counters' range, each below 2^32.

    Returns:
        [steps, rows, columns] float32.
    """

    def count(first: int, number: int, dim: int) -> Tensor:
        shape = [1, 1, 1]
        shape[dim] = number
        return torch.arange(first, first + number, device=key.device).view(shape)

    blocks = -(-columns // 4)
    counter = (count(0, blocks, 2), count(0, rows, 1), count(first_step, steps, 0))
    counter = torch.broadcast_tensors(*counter, torch.full((1, 1, 1), stream, device=key.device))
    c0, c1, c2, c3 = philox(counter, key)
    numbers = torch.stack([*box_muller(c0, c1), *box_muller(c2, c3)], -1)  # [steps, rows, blocks, 4]
    return numbers.flatten(2)[..., :columns].contiguous()


def table(key: Tensor, rows: int, width: int, normals: Callable[..., Tensor] = normals) -> Tensor:
    """[rows, width] numbers of a key that serves nothing else; four rows are a step. `normals` is the backend's."""
    numbers = normals(key, 0, 0, -(-rows // 4), width, 4)  # [steps, width, 4]
    return numbers.transpose(1, 2).reshape(-1, width)[:rows]


def plan_noise(
    key: PlanKey,
    states: int,
    stoch: int,
    action: int,
    plan_length: int,
    width: int,
    normals: Callable[..., Tensor] = normals,
) -> PlanNoise:
    """The numbers of a plan's noise from N states: dimensions S, A, and plans of P times `width` numbers.

    Args:
        normals: the backend's.
    """
    i, g, h = key.iterations, key.candidates, key.steps
    rows = states if key.shared else states * g

    def draw(stream: int, columns: int) -> Tensor:
        return normals(key.key, stream, 0, i * h, rows, columns).view(i, h, rows, columns)

    candidates = normals(key.key, CANDIDATES, 0, i, states * g, plan_length * width)
    return PlanNoise(
        candidates.view(i, states, g, plan_length, width),
        draw(STOCH, stoch),
        draw(ACTION, action) if key.sample else None,
    )
