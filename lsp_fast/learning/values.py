"""What values learn from beside imagination, and what they are bootstrapped by (SPEC section 8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lsp_fast.backends import REFERENCE, Backend
from lsp_fast.config import Config
from lsp_fast.learning.behavior import BehaviorLosses, BehaviorModels, largest_reward, value_limit
from lsp_fast.models.heads import Value
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.ops import densities, layers
from lsp_fast.ops.types import MLPWeights, State, features


def value_weights(value: Value, task_value: Value | None) -> dict[str, Any]:
    """What `BehaviorModels` takes of the value heads, by its names: the live parameters of theirs and of their slow
    copies, and the largest reward."""
    heads = {"value": value, "task_value": task_value}
    learned = {name: None if head is None else head.weights() for name, head in heads.items()}
    slow = {f"slow_{name}": None if head is None else head.slow_weights() for name, head in heads.items()}
    # It changes before all gradients are taken.
    largest = None if value.largest_reward is None else value.largest_reward.clone()
    return learned | slow | {"largest_reward": largest}


def follow(losses: BehaviorLosses, *heads: Value | None) -> None:
    """Move on what follows the heads, once they have learned: slow copies, and the largest reward."""
    for head in heads:
        if head is not None:
            head.follow()
            head.remember(losses.largest_reward)


def with_replayed_values(
    losses: BehaviorLosses,
    states: State,
    batch: SequenceBatch,
    models: BehaviorModels,
    config: Config,
    backend: Backend,
) -> BehaviorLosses:
    """The losses, where `value.replay` is on with its weight times the replay's in that of the head that learns from R
    alone: the planner's own, where there is one, for the other may learn from r^i, too, which the replay does not tell.

    Args:
        losses: of imagination.
        states: [L B, ...], the posterior states of the batch, detached, time first.
        batch: [B, L, ...].
    """
    weight = config.value.replay
    if not weight:
        return losses
    feature = features(states).unflatten(0, batch.reward.T.shape)  # [L, B, F]
    head, slow, name = models.value, models.slow_value, "value"
    if models.task_value is not None:
        head, slow, name = models.task_value, models.slow_task_value, "task_value"
    b = config.behavior
    limit = value_limit(largest_reward(losses.largest_reward, batch.reward), b.gamma)
    extra = replayed_value_loss(feature, batch, head, slow or head, b.gamma, b.lam, backend, limit)
    return losses._replace(
        **{name: getattr(losses, name) + weight * extra},
        metrics=losses.metrics | {"replayed_value_loss": extra.detach()},
    )


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
