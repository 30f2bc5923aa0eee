"""What values learn: the loss on imagined states, that on replayed ones, and their targets' bound (SPEC 3 and 8)."""

from __future__ import annotations

import torch
from torch import Tensor

from lsp_fast.backends import REFERENCE, Backend
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.ops import densities, layers
from lsp_fast.ops.types import MLPWeights


def largest_reward(before: Tensor | None, *rewards: Tensor) -> Tensor | None:
    """The largest |reward| of `before`, 0-d, and of all that is imagined now; None where nobody asks for it."""
    if before is None:
        return None
    return torch.stack([before, *(x.detach().abs().amax() for x in rewards)]).amax()


def value_limit(largest: Tensor | None, gamma: float) -> Tensor | None:
    """What the largest reward at every step is worth, max |r| / (1 - gamma), 0-d: no policy earns more."""
    return None if largest is None else largest / (1 - gamma)


def value_loss(
    judged: Tensor, weight: Tensor, target: Tensor, head: MLPWeights, limit: Tensor | None, backend: Backend
) -> Tensor:
    """-mean log p(target) of the states before the last, weighted: [T, N, F], [T - 1, N], [T - 1, N] -> [].

    Targets beyond `limit`, 0-d, are cut off there: a value that bootstraps itself may otherwise grow without end.
    """
    if limit is not None:
        target = target.clamp(-limit, limit)
    predicted = layers.scalar_head(judged[:-1], head, backend.mlp)
    return -(weight * densities.normal_log_prob(target, predicted)).mean()


def replayed_value_loss(
    feature: Tensor,
    batch: SequenceBatch,
    head: MLPWeights,
    bootstrap: MLPWeights,
    gamma: float,
    lam: float,
    backend: Backend = REFERENCE,
    limit: Tensor | None = None,
) -> Tensor:
    """-mean log p(target) of a value on replayed sequences, whose targets are lambda-returns of the real rewards:

        R_t = r_t + gamma ((1 - lam) v_{t+1} + lam R_{t+1})

    v is the value that imagination is bootstrapped by. A return ends where its episode does: at a terminal state with
    its reward; at any other last one, after which nothing is known, with that state's value, which then teaches nothing
    by itself. The last state of a sequence is only bootstrapped from.

    Args:
        feature: [L, B, F], without history.
        batch: [B, L, ...], whose rewards belong to the states that they led to, as values count them.
        head: what learns.
        bootstrap: the same parameters, or a slow copy's.
        gamma, lam: as in imagination.
        backend: what computes.
        limit: 0-d, beyond which targets are cut off.

    Returns:
        [], differentiable in `head`.
    """
    reward, terminal, is_first = batch.reward.T, batch.terminal.T > 0, batch.is_first.T  # [L, B]
    with torch.no_grad():
        value = torch.where(terminal, reward, layers.scalar_head(feature, bootstrap, backend.mlp))
        cut = is_first[1:] & ~terminal[:-1]  # [L - 1, B]
        rewards = torch.where(cut, value[:-1], reward[:-1])
        discounts = gamma * (~(is_first[1:] | terminal[:-1])).to(value.dtype)
        target = backend.lambda_return(rewards, value[:-1], discounts, value[-1], lam)  # [L - 1, B]
        if limit is not None:
            target = target.clamp(-limit, limit)
    predicted = layers.scalar_head(feature[:-1], head, backend.mlp)
    return -(densities.normal_log_prob(target, predicted) * ~cut).mean()
