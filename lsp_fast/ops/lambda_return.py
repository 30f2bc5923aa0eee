"""TD(lambda) returns: contract and plain PyTorch reference."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def lambda_return(rewards: Tensor, values: Tensor, discounts: Tensor, bootstrap: Tensor, lam: float) -> Tensor:
    """TD(lambda) returns, Dreamer's convention (SPEC section 3).

        R_t = r_t + d_t ((1 - lam) v_{t+1} + lam R_{t+1}),   R_T = v_T = bootstrap

    Args:
        rewards: [T, ...], of the same states as `values`.
        values: [T, ...]; the first is not used, as a return bootstraps from later states only.
        discounts: [T, ...], what the future after each state counts.
        bootstrap: [...], the value of the state after the last reward.
        lam: in [0, 1]; 0 is the one-step target, 1 the discounted sum plus bootstrap.

    Returns:
        [T, ...], differentiable in every tensor.

    Raises:
        ValueError: shapes that do not fit.
    """
    check_lambda_return(rewards, values, discounts, bootstrap)
    next_values = torch.cat([values[1:], bootstrap[None]])
    targets = rewards + discounts * (1 - lam) * next_values
    carry, returns = bootstrap, []
    for t in reversed(range(len(rewards))):
        carry = targets[t] + discounts[t] * lam * carry
        returns.append(carry)
    return torch.stack(returns[::-1])


def check_lambda_return(rewards: Tensor, values: Tensor, discounts: Tensor, bootstrap: Tensor) -> None:
    """Raise ValueError unless the shapes are those of the contract."""
    if not (rewards.shape == values.shape == discounts.shape) or rewards.shape[1:] != bootstrap.shape:
        raise ValueError(
            "lambda_return needs rewards, values and discounts of one shape [T, ...] and a bootstrap of [...], not "
            f"{tuple(rewards.shape)}, {tuple(values.shape)}, {tuple(discounts.shape)} and {tuple(bootstrap.shape)}"
        )
    if rewards.shape[0] == 0:
        raise ValueError("lambda_return needs at least one step, T >= 1")


def from_kernels(forward: Callable[..., Tensor], backward: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Tensor]:
    """A `lambda_return` from a native pair: forward(rewards, values, discounts, bootstrap, lam) -> returns, and
    backward(grad, values, discounts, bootstrap, returns, lam) -> the four gradients. They see contiguous tensors."""

    class LambdaReturn(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Tensor:
            tensors = [x.contiguous() for x in inputs[:4]]
            returns = forward(*tensors, inputs[4])
            ctx.save_for_backward(*tensors[1:], returns)
            ctx.lam = inputs[4]
            return returns

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            return (*backward(grad.contiguous(), *ctx.saved_tensors, ctx.lam), None)

    def native_lambda_return(
        rewards: Tensor, values: Tensor, discounts: Tensor, bootstrap: Tensor, lam: float
    ) -> Tensor:
        inputs = (rewards, values, discounts, bootstrap)
        check_lambda_return(*inputs)
        # Under autocast they are of several types; kernels take one, of at least the reference's precision.
        dtype = functools.reduce(torch.promote_types, (x.dtype for x in inputs), torch.float32)
        rewards, values, discounts, bootstrap = inputs = tuple(x.to(dtype) for x in inputs)
        if not (torch.is_grad_enabled() and any(x.requires_grad for x in inputs)):
            return forward(*(x.contiguous() for x in inputs), lam)
        return LambdaReturn.apply(rewards, values, discounts, bootstrap, lam)  # pyright: ignore[reportReturnType]

    return native_lambda_return
