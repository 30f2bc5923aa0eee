"""TD(lambda) returns at the paper's sizes: C++ beside eager PyTorch and torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from measure import Work, operation
from torch import Tensor

from lsp_fast import ops
from lsp_fast.backends import cpp

LAM = 0.95


def works() -> Iterator[Work]:
    """Returns of an update's 40,000 candidate plans, with and without their gradients."""
    steps, columns = 10, 40_000
    inputs = [torch.randn(steps, columns) for _ in range(3)] + [torch.randn(columns)]
    yield operation("lambda_return", ops.lambda_return, cpp.lambda_return, (*inputs, LAM), f"[{steps}, {columns}]")

    tracked, grad = [x.clone().requires_grad_() for x in inputs], torch.randn(steps, columns)

    def with_gradients(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
        def run(*arguments: Any) -> tuple[Tensor, ...]:
            return torch.autograd.grad(function(*arguments), tracked, grad, materialize_grads=True)

        return run

    both = (with_gradients(f) for f in (ops.lambda_return, cpp.lambda_return))
    compiled = with_gradients(torch.compile(ops.lambda_return, dynamic=False))
    name = f"[{steps}, {columns}]"
    yield operation("lambda_return, forward and backward", *both, (*tracked, LAM), name, compiled)
