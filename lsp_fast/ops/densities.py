"""Densities of diagonal normals: contracts and plain PyTorch reference."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lsp_fast.ops.types import Normal


def log_prob(raw: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """log N(x; mean, std^2) of a network's output, whose deviation is softly clamped (SPEC section 2).

    Args:
        raw: [..., 2D], mean and raw log std.
        x: [..., D].
        low, high: what the deviation is clamped between.

    Returns:
        [...], summed over D; differentiable in `raw` and `x`, natively in `raw`, and once.
    """
    mean, raw_log_std = raw.chunk(2, -1)
    return normal_log_prob(x, mean, soft_clamp_std(raw_log_std, low, high)).sum(-1)


def kl_divergence(p: Normal, q: Normal) -> Tensor:
    """KL(p || q): means and deviations [..., D] -> [...], summed over D; differentiable in all four, natively once."""
    ratio = (p.std / q.std) ** 2
    return 0.5 * (ratio + ((p.mean - q.mean) / q.std) ** 2 - 1 - ratio.log()).sum(-1)


def entropy(policy: Normal, noise: Tensor) -> Tensor:
    """The entropy of an action tanh(mean + std * noise), estimated by that action: minus its log density.

    Args:
        policy: before its tanh, [..., A].
        noise: [..., A].

    Returns:
        [...], summed over A; differentiable in mean and std through the action, too, natively once.
    """
    return -tanh_normal_log_prob(policy.mean + policy.std * noise, policy).sum(-1)


def normal_log_prob(x: Tensor, mean: Tensor, std: Tensor | float = 1.0) -> Tensor:
    """log N(x; mean, std^2), elementwise."""
    log_std = std.log() if isinstance(std, Tensor) else math.log(std)
    return -0.5 * ((x - mean) / std) ** 2 - log_std - 0.5 * math.log(2 * math.pi)


def tanh_normal_log_prob(pre_tanh: Tensor, policy: Normal) -> Tensor:
    """log density of tanh(pre_tanh), elementwise: the normal's, less log |d tanh| = 2 (log 2 - x - softplus(-2x))."""
    log_slope = 2 * (math.log(2) - pre_tanh - F.softplus(-2 * pre_tanh))
    return normal_log_prob(pre_tanh, *policy) - log_slope


def soft_clamp_std(raw_log_std: Tensor, low: float, high: float) -> Tensor:
    """Standard deviation whose log-variance is softly clamped between fixed bounds, as in PETS (SPEC section 2)."""
    lo, hi = (2 * math.log(bound) for bound in (low, high))
    y = hi - F.softplus(hi - 2 * raw_log_std)
    y = lo + F.softplus(y - lo)
    return (0.5 * y).exp()


def densest_action(policy: Normal, noise: Tensor) -> Tensor:
    """The sample of highest density, [N, A], from noise [samples, N, A]; of Dreamer, [D]."""
    pre_tanh = policy.mean + policy.std * noise  # [samples, N, A]
    best = tanh_normal_log_prob(pre_tanh, policy).sum(-1).argmax(0)  # [N]
    chosen = pre_tanh.gather(0, best[None, :, None].expand(1, -1, pre_tanh.shape[-1]))[0]
    return torch.tanh(chosen)
