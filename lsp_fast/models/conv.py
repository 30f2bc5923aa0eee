"""Encoder and decoder of 64x64 frames (SPEC section 2, pixels)."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lsp_fast.models.networks import Linear

SHAPE = (64, 64, 3)
"""Of a frame, uint8."""
EMBEDDING = 1024
ENCODER = (3, 32, 64, 128, 256)
"""Channels; every layer halves the picture with kernels of 4: 31, 14, 6, 2 pixels a side."""
DECODER = ((EMBEDDING, 0), (128, 5), (64, 5), (32, 6), (3, 6))
"""Channels, and the kernel that leads to them: 1, 5, 13, 30, 64 pixels a side."""
ACTIVATIONS = 2 * (32 * 31**2 + 64 * 14**2 + 128 * 6**2 + EMBEDDING + 128 * 5**2 + 64 * 13**2 + 32 * 30**2)
"""Numbers that autograd keeps of a frame, roughly."""


class Convolution(nn.Module):
    """A convolution of stride 2, or its transpose; Glorot uniform weights and zero bias [D]."""

    def __init__(self, inputs: int, outputs: int, kernel: int, transposed: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.transposed = transposed
        shape = (inputs, outputs) if transposed else (outputs, inputs)
        self.weight = nn.Parameter(torch.empty(*shape, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        # Both directions of a convolution see kernel^2 numbers a channel.
        bound = math.sqrt(6 / ((inputs + outputs) * kernel**2))
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, side, side] -> [N, outputs, ., .]"""
        apply = F.conv_transpose2d if self.transposed else F.conv2d
        return apply(x, self.weight, self.bias, stride=2)


class ConvEncoder(nn.Module):
    """[N, 64, 64, 3] -> [N, 1024], with a ReLU after every layer."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        pairs = itertools.pairwise(ENCODER)
        self.layers = nn.ModuleList([Convolution(a, b, 4, False, generator) for a, b in pairs])

    def forward(self, frames: Tensor) -> Tensor:
        x = frames.permute(0, 3, 1, 2)
        for layer in self.layers:
            x = F.relu(layer(x))
        return x.flatten(1)


class ConvDecoder(nn.Module):
    """[N, F] -> means of the frames [N, 64, 64, 3], with a ReLU between the transposed convolutions."""

    def __init__(self, feature_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.inp = Linear(feature_dim, EMBEDDING, generator)
        pairs = itertools.pairwise(DECODER)
        self.layers = nn.ModuleList([Convolution(a, b, kernel, True, generator) for (a, _), (b, kernel) in pairs])

    def forward(self, feature: Tensor) -> Tensor:
        x = F.linear(feature, self.inp.weight, self.inp.bias)[:, :, None, None]
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        return last(x).permute(0, 2, 3, 1)
