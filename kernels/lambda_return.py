"""TD(lambda) returns in Triton: one program walks time backwards for a block of trajectories."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256


@triton.jit
def _forward(rewards, values, discounts, bootstrap, returns, lam, steps, columns, BLOCK: tl.constexpr):
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = column < columns
    following = tl.load(bootstrap + column, mask=live)  # v of the next state
    carry = following  # R of the next state
    for i in range(steps):
        at = (steps - 1 - i) * columns + column
        discount = tl.load(discounts + at, mask=live)
        carry = tl.load(rewards + at, mask=live) + discount * ((1 - lam) * following + lam * carry)
        tl.store(returns + at, carry, mask=live)
        following = tl.load(values + at, mask=live)


@triton.jit
def _backward(
    grad, values, discounts, bootstrap, returns,
    d_rewards, d_values, d_discounts, d_bootstrap, lam, steps, columns, BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = column < columns
    # dL/dR_t, in full: its own gradient and what R_{t-1} passed on. d v_t comes from R_{t-1} alone.
    total = tl.load(grad + column, mask=live)
    discount = tl.load(discounts + column, mask=live)
    tl.store(d_rewards + column, total, mask=live)
    tl.store(d_values + column, tl.zeros_like(total), mask=live)
    for t in range(1, steps):
        at = t * columns + column
        value, future = tl.load(values + at, mask=live), tl.load(returns + at, mask=live)
        tl.store(d_discounts + at - columns, total * ((1 - lam) * value + lam * future), mask=live)
        tl.store(d_values + at, total * discount * (1 - lam), mask=live)
        total = tl.load(grad + at, mask=live) + total * discount * lam
        tl.store(d_rewards + at, total, mask=live)
        discount = tl.load(discounts + at, mask=live)
    # The state after the last one has the bootstrap for both its value and its return.
    tl.store(d_discounts + (steps - 1) * columns + column, total * tl.load(bootstrap + column, mask=live), mask=live)
    tl.store(d_bootstrap + column, total * discount, mask=live)


def forward(rewards: Tensor, values: Tensor, discounts: Tensor, bootstrap: Tensor, lam: float) -> Tensor:
    """[T, ...] and [...] -> returns [T, ...]; contiguous tensors of one floating dtype."""
    returns = torch.empty_like(rewards)
    columns = bootstrap.numel()
    grid = (triton.cdiv(columns, BLOCK),)
    if columns:
        _forward[grid](
            rewards, values, discounts, bootstrap, returns, lam, len(rewards), columns, BLOCK,
            enable_fp_fusion=True,
        )  # fmt: skip
    return returns


def backward(
    grad: Tensor, values: Tensor, discounts: Tensor, bootstrap: Tensor, returns: Tensor, lam: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of rewards, values, discounts and bootstrap from that of the returns."""
    outputs = (*(torch.empty_like(grad) for _ in range(3)), torch.empty_like(bootstrap))
    columns = bootstrap.numel()
    grid = (triton.cdiv(columns, BLOCK),)
    if columns:
        _backward[grid](
            grad, values, discounts, bootstrap, returns, *outputs, lam, len(grad), columns, BLOCK,
            enable_fp_fusion=True,
        )  # fmt: skip
    return outputs
