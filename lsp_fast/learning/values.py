"""The value heads in an update: what they give it, what follows them, and the replay's part of their loss (SPEC
section 8)."""

from __future__ import annotations

from typing import Any

from lsp_fast.backends import Backend
from lsp_fast.config import Config
from lsp_fast.learning.behavior import BehaviorLosses, BehaviorModels
from lsp_fast.learning.value_loss import largest_reward, replayed_value_loss, value_limit
from lsp_fast.models.heads import Value
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.ops.types import State, features


def value_weights(value: Value, task_value: Value | None) -> dict[str, Any]:
    """What `BehaviorModels` takes of the value heads, by its names: the live parameters of theirs and of their slow
    copies, and the largest reward."""
    heads = {"value": value, "task_value": task_value}
    learned = {name: None if head is None else head.weights() for name, head in heads.items()}
    slow = {f"slow_{name}": None if head is None else head.slow_weights() for name, head in heads.items()}
    return learned | slow | {"largest_reward": value.largest_reward}


def follow(value: Value, task_value: Value | None, losses: BehaviorLosses) -> None:
    """Move on what follows the heads, once they have learned: slow copies, and the largest reward, which one keeps."""
    value.follow()
    if task_value is not None:
        task_value.follow()
    value.remember(losses.largest_reward)


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
