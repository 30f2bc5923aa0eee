"""TD(lambda) returns, the choice of elites and normal numbers at the paper's sizes: C++ beside eager PyTorch and
torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from measure import Work
from torch import Tensor

from lsp_fast import ops
from lsp_fast.backends import cpp
from lsp_fast.ops import philox

LAM = 0.95


def works() -> Iterator[Work]:
    """Returns of an update's 40,000 candidate plans, with and without their gradients; the elites of 2500 states."""
    steps, columns = 10, 40_000
    inputs = [torch.randn(steps, columns) for _ in range(3)] + [torch.randn(columns)]
    yield work("lambda_return", ops.lambda_return, cpp.lambda_return, (*inputs, LAM), f"[{steps}, {columns}]")

    tracked, grad = [x.clone().requires_grad_() for x in inputs], torch.randn(steps, columns)

    def with_gradients(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
        def run(*arguments: Any) -> tuple[Tensor, ...]:
            return torch.autograd.grad(function(*arguments), tracked, grad, materialize_grads=True)

        return run

    both = (with_gradients(f) for f in (ops.lambda_return, cpp.lambda_return))
    compiled = with_gradients(torch.compile(ops.lambda_return, dynamic=False))
    name = f"[{steps}, {columns}]"
    yield work("lambda_return, forward and backward", *both, (*tracked, LAM), name, compiled)

    states, candidates, dim, elites = 2500, 16, 3, 4
    shape = (states, 1, dim)
    plans = torch.randn(states, candidates, 1, dim)
    arguments = (torch.randn(states, candidates), plans, elites, torch.randn(shape), torch.rand(shape))
    yield work("select_elites", ops.select_elites, cpp.select_elites, arguments, f"[{states}, {candidates}, {dim}]")

    key, generator = torch.tensor([1, 2]), torch.Generator()
    expected, got = (f(key, 0, 0, 2, 100, 10) for f in (philox.normals, cpp.normals))
    assert torch.equal(got, expected)
    yield Work(
        "a million normal numbers",
        "torch.randn",
        {
            "torch.randn": lambda: torch.randn(10, 5000, 20, generator=generator),
            "C++ Philox": lambda: cpp.normals(key, 0, 0, 10, 5000, 20),
        },
    )


def work(
    name: str, eager: Any, cpp: Any, arguments: tuple, sizes: str, compiled: Callable[..., Any] | None = None
) -> Work:
    """One operation on one set of arguments, the variants checked against each other."""
    expected = eager(*arguments)
    torch.testing.assert_close(cpp(*arguments), expected)
    variants = {"eager": lambda: eager(*arguments), "C++": lambda: cpp(*arguments)}
    missing = {}
    compiled = compiled or torch.compile(eager, dynamic=False)
    try:
        torch.testing.assert_close(compiled(*arguments), expected)
        variants["torch.compile"] = lambda: compiled(*arguments)
    except Exception as error:
        missing["torch.compile"] = str(error).splitlines()[0]
    return Work(f"{name} {sizes}", "eager", variants, missing=missing)
