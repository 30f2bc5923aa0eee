"""Layers one after the other: contract and plain PyTorch reference."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lsp_fast.ops.types import Dense, MLPWeights


def mlp(x: Tensor, weights: MLPWeights) -> Tensor:
    """Linear layers with ELU between them, and a linear output where there is one.

        y = W_n elu(... elu(W_1 x + b_1) ...) + b_n

    Args:
        x: [..., in].
        weights: at least one layer.

    Returns:
        [..., out], or the last hidden layer's activation [..., hidden] where there is no output layer. Differentiable
        in `x`, weights and biases; natively once: a gradient's own gradient is refused.
    """
    for layer in weights.hidden:
        x = F.elu(dense(x, layer))
    return x if weights.out is None else dense(x, weights.out)


def dense(x: Tensor, layer: Dense) -> Tensor:
    """[..., in] -> [..., out]"""
    return F.linear(x, layer.weight, layer.bias)
