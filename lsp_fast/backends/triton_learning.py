"""Learning's operations in Triton behind torch tensors: forward, and backward by hand.

They compute in float32, products as PyTorch is set to (fp32 or tf32). In another dtype, under autocast, and for
gradients to anything but the actor in `imagine` the reference computes, which is said once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lsp_fast import ops
from lsp_fast.backends.fallback import fits_triton, refuse_twice
from lsp_fast.kernels import mlp as mlp_kernels
from lsp_fast.ops.types import MLPWeights


def mlp(x: Tensor, weights: MLPWeights) -> Tensor:
    """`lsp_fast.ops.mlp` in Triton: the same contract from float32, for anything else the reference itself."""
    layers = weights.hidden if weights.out is None else (*weights.hidden, weights.out)
    flat = [t for layer in layers for t in layer]
    if not layers or not fits_triton("mlp", x, *flat) or x.numel() == 0:
        return ops.mlp(x, weights)
    rows = x.reshape(-1, x.shape[-1])
    y = _Mlp.apply(rows, weights.out is not None, *flat)  # pyright: ignore[reportGeneralTypeIssues]
    return y.view(*x.shape[:-1], y.shape[-1])


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear_out: bool, *flat: Tensor) -> Tensor:
        x = x.contiguous()
        values = mlp_kernels.forward(x, list(zip(flat[::2], flat[1::2], strict=True)), linear_out)
        ctx.linear_out = linear_out
        ctx.save_for_backward(x, *(values[:-1] if linear_out else values), *flat[::2])
        return values[-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        refuse_twice("mlp")
        layers = len(ctx.needs_input_grad[2:]) // 2
        x, *rest = ctx.saved_tensors
        dx, flat = mlp_kernels.backward(
            gradients[0].contiguous(),
            x,
            rest[:-layers],
            rest[-layers:],
            ctx.linear_out,
            ctx.needs_input_grad[0],
            any(ctx.needs_input_grad[2:]),
        )
        return dx, None, *(flat or [None] * 2 * layers)
