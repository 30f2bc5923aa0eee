"""Learning's operations in C++ behind torch tensors: forward, and backward by hand.

They compute in float32 on the CPU, on torch.get_num_threads() threads; results and gradients have the same bits with
any number of them. In another dtype, or on another device, the reference computes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lsp_fast import ops
from lsp_fast.backends.cpp import _threads, load
from lsp_fast.ops.types import Dense, MLPWeights


def mlp(x: Tensor, weights: MLPWeights, isa: str = "auto") -> Tensor:
    """`lsp_fast.ops.mlp` in C++: the same contract from float32 on the CPU, for anything else the reference itself.

    Args:
        isa: one of `cpp.instruction_sets()`; auto takes the first.
    """
    layers = weights.hidden if weights.out is None else (*weights.hidden, weights.out)
    flat = [t for layer in layers for t in layer]
    if not _fits(x, *flat) or not layers or x.numel() == 0:
        return ops.mlp(x, weights)
    rows = x.reshape(-1, x.shape[-1])
    y = _Mlp.apply(rows, weights.out is not None, isa, *flat)  # pyright: ignore[reportGeneralTypeIssues]
    return y.view(*x.shape[:-1], y.shape[-1])


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear_out: bool, isa: str, *flat: Tensor) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        y, ctx.kept = load().mlp_forward(_array(x), _pairs(flat), linear_out, wanted, _threads(), isa)
        return torch.from_numpy(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        refuse_twice("mlp")
        want_weights = any(ctx.needs_input_grad[3:])
        dx, arrays = load().mlp_backward(
            ctx.kept, _array(gradients[0]), ctx.needs_input_grad[0], want_weights, _threads()
        )
        flat = map(torch.from_numpy, arrays) if want_weights else [None] * len(ctx.needs_input_grad[3:])
        return None if dx is None else torch.from_numpy(dx), None, None, *flat


def refuse_twice(name: str) -> None:
    """Raise RuntimeError where a gradient is asked for that could itself be differentiated."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{name}: the gradient of its gradient is not there natively; leave create_graph out, or use --backend "
            "reference"
        )


def _fits(*tensors: Tensor) -> bool:
    return all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors)


def _array(x: Tensor):
    return x.detach().contiguous().numpy()


def _pairs(flat: tuple[Tensor, ...]) -> tuple:
    """Weights and biases in turns as ((weight, bias), ...)."""
    return tuple(tuple(map(_array, Dense(*flat[i : i + 2]))) for i in range(0, len(flat), 2))
