"""Parameter containers. A module draws its initial weights and hands out weight tuples; `lsp_fast.ops` computes."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lsp_fast.ops.types import Dense, GRUWeights, MLPWeights


class Linear(nn.Module):
    """A linear layer, Glorot uniform weights and zero bias [D]."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.weight, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]"""
        return F.linear(x, self.weight, self.bias)

    def weights(self) -> Dense:
        """The live parameters."""
        return Dense(self.weight, self.bias)


class MLP(nn.Module):
    """`layers` hidden layers of `units` with ELU, then a linear output unless `outputs` is 0."""

    def __init__(self, inputs: int, units: int, layers: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        widths = [inputs, *[units] * layers]
        self.hidden = nn.ModuleList([Linear(a, b, generator) for a, b in itertools.pairwise(widths)])
        self.out = Linear(widths[-1], outputs, generator) if outputs else None

    def weights(self) -> MLPWeights:
        """The live parameters."""
        hidden = tuple(layer.weights() for layer in self.hidden)  # pyright: ignore[reportCallIssue]
        return MLPWeights(hidden, None if self.out is None else self.out.weights())


class NormedMLP(MLP):
    """An MLP whose hidden layers are normalised before their ELU, with a learned scale and shift (`model.norm`).

    PyTorch computes it whatever the backend: weight tuples, and so the operations, know no LayerNorm.
    """

    def __init__(self, inputs: int, units: int, layers: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__(inputs, units, layers, outputs, generator)
        self.norms = nn.ModuleList([nn.LayerNorm(units, eps=1e-3) for _ in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs], or the last hidden layer's activation."""
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = F.elu(norm(layer(x)))
        return x if self.out is None else self.out(x)


class GRU(nn.Module):
    """torch.nn.GRUCell's function; Glorot uniform input weights, orthogonal recurrent ones, zero biases [D]."""

    def __init__(self, inputs: int, units: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(3 * units, inputs))
        self.weight_hh = nn.Parameter(torch.empty(3 * units, units))
        self.bias_ih = nn.Parameter(torch.zeros(3 * units))
        self.bias_hh = nn.Parameter(torch.zeros(3 * units))
        nn.init.xavier_uniform_(self.weight_ih, generator=generator)
        nn.init.orthogonal_(self.weight_hh, generator=generator)

    def weights(self) -> GRUWeights:
        """The live parameters."""
        return GRUWeights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
