"""Plain PyTorch functions of the networks, on weight tuples. They read like SPEC sections 2 and 3."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lsp_fast.ops.mlp import dense, mlp
from lsp_fast.ops.types import (
    ActorWeights,
    GRUWeights,
    MLPWeights,
    Normal,
    PosteriorWeights,
    PriorWeights,
    State,
)


def scalar_head(x: Tensor, weights: MLPWeights, mlp: Callable[..., Tensor] = mlp) -> Tensor:
    """[..., in] -> [...], the mean of a unit normal (reward, value)."""
    return mlp(x, weights).squeeze(-1)


def gru(x: Tensor, hidden: Tensor, weights: GRUWeights) -> Tensor:
    """One step of torch.nn.GRUCell: x [N, in], hidden [N, D] -> [N, D]."""
    return torch.gru_cell(x, hidden, *weights)


def softplus_normal(x: Tensor, min_std: float) -> Normal:
    """[..., 2S] -> mean, softplus(.) + min_std, each [..., S]."""
    mean, std = x.chunk(2, -1)
    return Normal(mean, F.softplus(std) + min_std)


def advance(state: State, action: Tensor, weights: PriorWeights) -> Tensor:
    """The deterministic part of a transition: ([N, ...], [N, A]) -> h' [N, D]."""
    x = F.elu(dense(torch.cat([state.stoch, action], -1), weights.inp))
    return gru(x, state.deter, weights.gru)


def prior(deter: Tensor, weights: PriorWeights) -> Normal:
    """p(s' | h'): [..., D] -> [..., S]"""
    return softplus_normal(dense(F.elu(dense(deter, weights.hidden)), weights.out), weights.min_std)


def posterior(deter: Tensor, embedding: Tensor, weights: PosteriorWeights) -> Normal:
    """q(s' | h', o'): ([..., D], [..., E]) -> [..., S]"""
    x = F.elu(dense(torch.cat([deter, embedding], -1), weights.hidden))
    return softplus_normal(dense(x, weights.out), weights.min_std)


def actor(feature: Tensor, skill: Tensor | None, weights: ActorWeights) -> Normal:
    """The policy before its tanh: ([..., F], [..., Z] or None) -> [..., A] (SPEC section 3)."""
    x = feature if skill is None else torch.cat([feature, weights.scaled(skill)], -1)
    mean, std = mlp(x, weights.mlp).chunk(2, -1)
    mean = weights.mean_scale * torch.tanh(mean / weights.mean_scale)
    std = F.softplus(std + inverse_softplus(weights.init_std)) + weights.min_std
    return Normal(mean, std)


def inverse_softplus(std: float) -> float:
    """log(e^s - 1), by which an output of 0 is shifted to give the initial standard deviation s; for large s too."""
    return std + math.log(-math.expm1(-std))


def act(policy: Normal, noise: Tensor | None) -> Tensor:
    """tanh(mean + std * noise), or tanh(mean) without noise: [..., A] in (-1, 1)."""
    return torch.tanh(policy.mean if noise is None else policy.mean + policy.std * noise)
