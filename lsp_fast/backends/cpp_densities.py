"""Densities of normals in C++ behind torch tensors: forward with the slopes, of which backward is one product.

They compute in float32 on the CPU, on torch.get_num_threads() threads; results have the same bits with any number of
them. In another dtype, on another device, or under autocast the reference computes, and where a gradient is asked for
that is not there natively.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lsp_fast.backends.cpp import _threads, load
from lsp_fast.backends.fallback import fits_cpp, refuse_twice
from lsp_fast.ops import densities
from lsp_fast.ops.types import Normal


def log_prob(raw: Tensor, x: Tensor, low: float, high: float, isa: str = "auto") -> Tensor:
    """`lsp_fast.ops.densities.log_prob` in C++: the same contract, with a gradient to `raw`.

    Args:
        isa: one of `cpp.instruction_sets()`; auto takes the first.
    """
    wants_x = torch.is_grad_enabled() and x.requires_grad
    alike = raw.shape == (*x.shape[:-1], 2 * x.shape[-1])
    if wants_x or not alike or not fits_cpp("log_prob", raw, x) or x.numel() == 0:
        return densities.log_prob(raw, x, low, high)
    return _LogProb.apply(torch.is_grad_enabled(), raw, x, low, high, isa)  # pyright: ignore[reportReturnType]


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graded: bool, raw: Tensor, x: Tensor, low: float, high: float, isa: str) -> Tensor:
        bounds, wanted = (2 * math.log(bound) for bound in (low, high)), graded and ctx.needs_input_grad[1]
        out, *ctx.slopes = load().log_prob(_rows(raw), _rows(x), *bounds, wanted, _threads(), isa)
        return torch.from_numpy(out).view(x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        refuse_twice("log_prob")
        return None, *_products(ctx.slopes, gradients[0]), None, None, None, None


def kl_divergence(p: Normal, q: Normal, isa: str = "auto") -> Tensor:
    """`lsp_fast.ops.densities.kl_divergence` in C++: the same contract.

    Args:
        isa: one of `cpp.instruction_sets()`; auto takes the first.
    """
    if not fits_cpp("kl_divergence", *p, *q) or not _alike(*p, *q):
        return densities.kl_divergence(p, q)
    return _KL.apply(torch.is_grad_enabled(), *p, *q, isa)  # pyright: ignore[reportReturnType]


class _KL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graded: bool, *given: Any) -> Tensor:
        *normals, isa = given
        wanted = graded and any(ctx.needs_input_grad)
        out, *ctx.slopes = load().kl_divergence(*map(_rows, normals), wanted, _threads(), isa)
        return torch.from_numpy(out).view(normals[0].shape[:-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        refuse_twice("kl_divergence")
        mean, p_std, q_std = _products(ctx.slopes, gradients[0])
        return None, mean, p_std, -mean, q_std, None


def entropy(policy: Normal, noise: Tensor, isa: str = "auto") -> Tensor:
    """`lsp_fast.ops.densities.entropy` in C++: the same contract, with gradients to the policy.

    Args:
        isa: one of `cpp.instruction_sets()`; auto takes the first.
    """
    wants_noise = torch.is_grad_enabled() and noise.requires_grad
    if wants_noise or not fits_cpp("entropy", *policy, noise) or not _alike(*policy, noise):
        return densities.entropy(policy, noise)
    return _Entropy.apply(torch.is_grad_enabled(), *policy, noise, isa)  # pyright: ignore[reportReturnType]


class _Entropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graded: bool, mean: Tensor, std: Tensor, noise: Tensor, isa: str) -> Tensor:
        wanted = graded and any(ctx.needs_input_grad)
        out, *ctx.slopes = load().entropy(*map(_rows, (mean, std, noise)), wanted, _threads(), isa)
        return torch.from_numpy(out).view(mean.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        refuse_twice("entropy")
        return None, *_products(ctx.slopes, gradients[0]), None, None


def _alike(*tensors: Tensor) -> bool:
    """Whether they are of one shape, and of any numbers at all."""
    return tensors[0].numel() > 0 and len({x.shape for x in tensors}) == 1


def _rows(x: Tensor):
    return x.detach().reshape(-1, x.shape[-1]).contiguous().numpy()


def _products(slopes: list, gradient: Tensor) -> list[Tensor]:
    """Slopes [rows, D] times the gradient [...] of their rows, [..., D] each."""
    each = gradient[..., None]
    return [torch.from_numpy(slope).view(*gradient.shape, -1) * each for slope in slopes]
