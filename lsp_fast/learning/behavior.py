"""Behaviour learning: the actor-critic in imagination, with the intrinsic reward (SPEC sections 3 and 4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lsp_fast.backends import Backend
from lsp_fast.config import Config
from lsp_fast.learning.intrinsic import intrinsic_reward, segment_log_probs, step_information
from lsp_fast.models.skill_predictor import SkillPredictor
from lsp_fast.models.world_model import discounts
from lsp_fast.noise import Noise
from lsp_fast.ops import layers
from lsp_fast.ops.imagine import held_skills
from lsp_fast.ops.types import ImagineNoise, MLPWeights, Normal, PlanWeights, State, features


class BehaviorModels(NamedTuple):
    """What behaviour is learned with, as live parameters."""

    plan: PlanWeights
    """Prior, actor, reward and discount head (its `value` is the planner's and is not used here)."""
    value: MLPWeights
    """The value head that the actor learns with."""
    task_value: MLPWeights | None = None
    """The planner's own value head, where it has one."""
    predictor: SkillPredictor | None = None
    """Where the intrinsic reward is on and `skill.mi` is predict."""


class BehaviorLosses(NamedTuple):
    """What each optimiser minimises; None where the module does not exist. `task_return` and `intrinsic_return` split
    the actor's objective for diagnosis: each is the part of the mean weighted return that its reward brought."""

    actor: Tensor
    value: Tensor
    task_value: Tensor | None
    predictor: Tensor | None
    task_return: Tensor
    intrinsic_return: Tensor | None
    metrics: dict[str, Tensor]


class Bonus(NamedTuple):
    """beta * r^i of every imagined state, what the predictor minimises, and metrics."""

    reward: Tensor | None  # [T, N]
    predictor_loss: Tensor | None
    metrics: dict[str, Tensor]


def intrinsic_bonus(
    start: State,
    states: State,
    feature: Tensor,
    skills: Tensor | None,
    skill_policy: Normal | None,
    models: BehaviorModels,
    noise: Noise,
    config: Config,
    live: Tensor | None = None,
) -> Bonus:
    """The intrinsic reward as the configuration wants it.

    Args:
        start: [N, ...]
        states, feature: the imagined ones [T, N, ...], and their features [T, N, F]: the same tensor that all heads
            see, since gradients would add up in another order through a copy.
        skills, skill_policy, live: as `behavior_losses` takes them.
    """
    c, first, steps = config.skill, features(start), len(feature)
    if c.intrinsic and c.mi == "compose":
        assert skills is not None
        held = held_skills(skills, c.length, steps)  # [T, N, Z]
        information = step_information(start, states, held, models.plan, config, noise, "behavior/compose")
        reward = c.beta * information
        return Bonus(reward, None, {"mutual_information": information.mean(), "intrinsic_reward_std": reward.std()})
    if models.predictor is None:
        return Bonus(None, None, {})
    assert skills is not None and skill_policy is not None
    log_q = segment_log_probs(models.predictor, feature, first, skills, config, noise, "behavior/intrinsic")
    reward = c.beta * intrinsic_reward(log_q, c.length, steps, c.intrinsic_form)
    fit = segment_log_probs(models.predictor, feature.detach(), first, skills, config, noise, "behavior/predictor")
    log_p = layers.normal_log_prob(skills, *skill_policy).sum(-1)[: len(log_q)]  # [J, N]
    metrics = {
        "log_q": log_q.mean(),
        "log_q_minus_log_p": (log_q - log_p).mean(),
        "intrinsic_reward_std": reward.std(),
    }
    return Bonus(reward, -(fit if live is None else live * fit).mean(), metrics)


def behavior_losses(
    start: State,
    skills: Tensor | None,
    skill_policy: Normal | None,
    models: BehaviorModels,
    noise: Noise,
    config: Config,
    backend: Backend,
    live: Tensor | None = None,
) -> BehaviorLosses:
    """Imagine from detached posterior states and return every loss.

    Args:
        start: [N, ...], detached.
        skills: [P, N, Z], detached; None without skills.
        skill_policy: mean and std [P, N, Z] that `skills` were drawn from, for log p.
        live: [N], 0 at a terminal state, from which nothing is learned, and 1 at others; None: all are live.
    """
    b, weights, steps = config.behavior, models.plan, config.imagined_steps
    n, stoch_dim = start.stoch.shape
    latent = noise.normal("behavior/latent", steps, n, stoch_dim)
    action_noise = noise.normal("behavior/action", steps, n, weights.action_dim)
    rollout = backend.imagine(
        start, weights.prior, weights.actor, skills, config.skill.length, ImagineNoise(latent, action_noise)
    )
    judged = feature = features(rollout.states)  # [T, N, F]
    if config.value.skill:
        assert skills is not None
        # The skill that acts in each imagined state, not the one that led there.
        acting = held_skills(skills, config.skill.length, steps + 1)[1:]
        judged = torch.cat([feature, acting], -1)  # [T, N, F + Z]
    task_reward = layers.scalar_head(feature, weights.reward)  # [T, N]
    value = layers.scalar_head(judged, models.value)
    discount = discounts(feature, b.gamma, weights.discount)
    # weight_t = product of the discounts before state t, the first state's being 1 [D].
    weight = torch.cat([torch.ones_like(discount[:1]), discount[:-2]]).cumprod(0).detach()  # [T - 1, N]
    if live is not None:
        weight = weight * live
    bonus = intrinsic_bonus(start, rollout.states, feature, skills, skill_policy, models, noise, config, live)
    reward = task_reward if bonus.reward is None else task_reward + bonus.reward

    def returns(reward: Tensor, value: Tensor) -> Tensor:
        return backend.lambda_return(reward[:-1], value[:-1], discount[:-1], value[-1], b.lam)  # [T - 1, N]

    target = returns(reward, value)
    pre_tanh = rollout.policy.mean + rollout.policy.std * action_noise
    entropy = -layers.tanh_normal_log_prob(pre_tanh, rollout.policy).sum(-1)  # [T, N]
    actor_loss = -(weight * (target + config.actor.entropy * entropy[:-1])).mean()

    def value_loss(head: MLPWeights, target: Tensor) -> Tensor:
        predicted = layers.scalar_head(judged[:-1].detach(), head)
        return -(weight * layers.normal_log_prob(target.detach(), predicted)).mean()

    task_value_loss = None
    if models.task_value is not None:
        with torch.no_grad():
            task_target = returns(task_reward, layers.scalar_head(judged, models.task_value))
        task_value_loss = value_loss(models.task_value, task_target)

    mean = rollout.policy.mean.detach()
    metrics = bonus.metrics | {
        "task_reward": task_reward.mean(),
        "task_reward_std": task_reward.std(),
        "return": target.mean(),
        "value": value.mean(),
        "value_abs_max": value.abs().amax(),
        "reward_abs_max": reward.abs().amax(),
        "entropy": entropy.mean(),
        "action_std": rollout.policy.std.mean(),
        "saturation": (mean.abs() > 2).float().mean(),
    }
    return BehaviorLosses(
        actor_loss,
        value_loss(models.value, target),
        task_value_loss,
        bonus.predictor_loss,
        (weight * (target if bonus.reward is None else returns(task_reward, value))).mean(),
        None if bonus.reward is None else (weight * returns(bonus.reward, torch.zeros_like(value))).mean(),
        {k: v.detach() for k, v in metrics.items()},
    )
