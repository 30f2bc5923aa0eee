"""Densities of normals in Triton behind torch tensors: one kernel forward, and one backward.

They compute in float32. In another dtype or under autocast the reference computes, and where a gradient is asked for
that is not there natively.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lsp_fast.backends.fallback import TRITON, fits_triton, refuse_twice, say_once
from lsp_fast.kernels import densities as kernels
from lsp_fast.ops import densities
from lsp_fast.ops.types import Normal


def log_prob(raw: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """`lsp_fast.ops.densities.log_prob` in Triton: the same contract, with a gradient to `raw`."""
    wants_x = torch.is_grad_enabled() and x.requires_grad
    if wants_x:
        say_once("log_prob", "where a gradient to more than the network's output is wanted", TRITON)
    alike = raw.shape == (*x.shape[:-1], 2 * x.shape[-1])
    if wants_x or not alike or not fits_triton("log_prob", raw, x) or x.numel() == 0:
        return densities.log_prob(raw, x, low, high)
    return _LogProb.apply(raw, x, 2 * math.log(low), 2 * math.log(high))  # pyright: ignore[reportReturnType]


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, raw: Tensor, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(raw, x)
        ctx.bounds = low, high
        return kernels.log_prob(_rows(raw), _rows(x), low, high).view(x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        refuse_twice("log_prob")
        raw, x = ctx.saved_tensors
        found = kernels.log_prob_backward(_rows(raw), _rows(x), gradients[0].reshape(-1), *ctx.bounds)
        return found.view(raw.shape), None, None, None


def kl_divergence(p: Normal, q: Normal) -> Tensor:
    """`lsp_fast.ops.densities.kl_divergence` in Triton: the same contract."""
    if not fits_triton("kl_divergence", *p, *q) or not _alike(*p, *q):
        return densities.kl_divergence(p, q)
    return _KL.apply(*p, *q)  # pyright: ignore[reportReturnType]


class _KL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *normals: Any) -> Tensor:
        ctx.save_for_backward(*normals)
        return kernels.kl_divergence(*map(_rows, normals)).view(normals[0].shape[:-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        refuse_twice("kl_divergence")
        p, p_std, q, q_std = map(_rows, ctx.saved_tensors)
        wanted = tuple(ctx.needs_input_grad)
        found = kernels.kl_divergence_backward(p, p_std, q, q_std, gradients[0].reshape(-1), wanted)
        return tuple(None if x is None else x.view(ctx.saved_tensors[0].shape) for x in found)


def entropy(policy: Normal, noise: Tensor) -> Tensor:
    """`lsp_fast.ops.densities.entropy` in Triton: the same contract, with gradients to the policy."""
    wants_noise = torch.is_grad_enabled() and noise.requires_grad
    if wants_noise:
        say_once("entropy", "where a gradient to the noise is wanted", TRITON)
    if wants_noise or not fits_triton("entropy", *policy, noise) or not _alike(*policy, noise):
        return densities.entropy(policy, noise)
    return _Entropy.apply(*policy, noise)  # pyright: ignore[reportReturnType]


class _Entropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
        ctx.save_for_backward(mean, std, noise)
        return kernels.entropy(*map(_rows, (mean, std, noise))).view(mean.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        refuse_twice("entropy")
        mean, std, noise = map(_rows, ctx.saved_tensors)
        d_mean, d_std = kernels.entropy_backward(mean, std, noise, gradients[0].reshape(-1))
        shape = ctx.saved_tensors[0].shape
        return d_mean.view(shape), d_std.view(shape), None


def _alike(*tensors: Tensor) -> bool:
    """Whether they are of one shape, and of any numbers at all."""
    return tensors[0].numel() > 0 and len({x.shape for x in tensors}) == 1


def _rows(x: Tensor) -> Tensor:
    """[..., D] as [rows, D] whose numbers follow one another; copied where they do not."""
    flat = x.detach().reshape(-1, x.shape[-1])
    return flat if flat.stride(1) == 1 else flat.contiguous()
