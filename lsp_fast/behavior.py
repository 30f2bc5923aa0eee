"""Behaviour learning: the actor-critic in imagination, with the intrinsic reward (SPEC sections 3 and 4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lsp_fast.backends import Backend
from lsp_fast.config import Config
from lsp_fast.models.skill_predictor import SkillPredictor
from lsp_fast.models.world_model import discounts
from lsp_fast.noise import Noise
from lsp_fast.ops import layers
from lsp_fast.ops.types import ImagineNoise, MLPWeights, Normal, PlanWeights, State, features


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


def intrinsic_reward(log_q: Tensor, length: int, steps: int, form: str) -> Tensor:
    """Lay each segment's log q on the imagined steps (SPEC section 4).

    Args:
        log_q: [J, N], of the J complete segments of K steps.
        length: K.
        steps: T imagined states; those past the last complete segment get nothing.
        form: `spread` (log q / K on each of the segment's steps), `end` (all on its last), `every` (all on each).

    Returns:
        [T, N]
    """
    per_step = log_q.repeat_interleave(length, 0)  # [J K, N]
    if form == "spread":
        per_step = per_step / length
    elif form == "end":
        is_end = (torch.arange(len(per_step), device=log_q.device) + 1) % length == 0
        per_step = per_step * is_end[:, None]
    return torch.cat([per_step, per_step.new_zeros(steps - len(per_step), log_q.shape[1])])


def segment_log_probs(
    predictor: SkillPredictor, feature: Tensor, first: Tensor, skills: Tensor, config: Config, noise: Noise, stream: str
) -> Tensor:
    """log q of every complete segment: features [T, N, F], first [N, F], skills [P, N, Z] -> [J, N]."""
    k, batch = config.skill.length, feature.shape[1]
    log_probs = []
    for j in range(config.behavior.horizon // k):
        before = first if j == 0 else feature[j * k - 1]
        drawn = noise.normal(stream, *predictor.noise_shape(batch))
        log_probs.append(predictor.log_prob(feature[j * k : (j + 1) * k], before, skills[j], drawn))
    return torch.stack(log_probs)


def behavior_losses(
    start: State,
    skills: Tensor | None,
    skill_policy: Normal | None,
    weights: PlanWeights,
    learned_value: MLPWeights,
    task_value: MLPWeights | None,
    predictor: SkillPredictor | None,
    noise: Noise,
    config: Config,
    backend: Backend,
) -> BehaviorLosses:
    """Imagine from detached posterior states and return every loss.

    Args:
        start: [N, ...], detached.
        skills: [P, N, Z], detached; None without skills.
        skill_policy: mean and std [P, N, Z] that `skills` were drawn from, for log p.
        weights: of prior, actor, reward and discount head (its `value` is the planner's and is not used here).
        learned_value: the value head the actor learns with.
        task_value: the planner's own value head, where it has one.
        predictor: where the intrinsic reward is on.
    """
    b, n, steps = config.behavior, start.stoch.shape[0], config.imagined_steps
    stoch_dim = start.stoch.shape[1]
    action_dim = weights.prior.inp.weight.shape[1] - stoch_dim
    rollout_noise = ImagineNoise(
        noise.normal("behavior/latent", steps, n, stoch_dim),
        action_noise := noise.normal("behavior/action", steps, n, action_dim),
    )
    rollout = backend.imagine(start, weights.prior, weights.actor, skills, config.skill.length, rollout_noise)
    feature, first = features(rollout.states), features(start)  # [T, N, F], [N, F]
    task_reward = layers.scalar_head(feature, weights.reward)  # [T, N]
    value = layers.scalar_head(feature, learned_value)
    discount = discounts(feature, b.gamma, weights.discount)
    # weight_t = product of the discounts before state t, the first state's being 1 [D].
    weight = torch.cat([torch.ones_like(discount[:1]), discount[:-2]]).cumprod(0).detach()  # [T - 1, N]
    metrics: dict[str, Tensor] = {}

    reward, bonus, predictor_loss = task_reward, None, None
    if predictor is not None:
        assert skills is not None and skill_policy is not None
        log_q = segment_log_probs(predictor, feature, first, skills, config, noise, "behavior/intrinsic")
        bonus = config.skill.beta * intrinsic_reward(log_q, config.skill.length, steps, config.skill.intrinsic_form)
        reward = task_reward + bonus
        fit = segment_log_probs(predictor, feature.detach(), first, skills, config, noise, "behavior/predictor")
        predictor_loss = -fit.mean()
        log_p = layers.normal_log_prob(skills, *skill_policy).sum(-1)[: len(log_q)]  # [J, N]
        metrics |= {
            "log_q": log_q.mean(),
            "log_q_minus_log_p": (log_q - log_p).mean(),
            "intrinsic_reward_std": bonus.std(),
        }

    def returns(reward: Tensor, value: Tensor) -> Tensor:
        return backend.lambda_return(reward[:-1], value[:-1], discount[:-1], value[-1], b.lam)  # [T - 1, N]

    target = returns(reward, value)
    pre_tanh = rollout.policy.mean + rollout.policy.std * action_noise
    entropy = -layers.tanh_normal_log_prob(pre_tanh, rollout.policy).sum(-1)  # [T, N]
    actor_loss = -(weight * (target + config.actor.entropy * entropy[:-1])).mean()

    def value_loss(head: MLPWeights, target: Tensor) -> Tensor:
        predicted = layers.scalar_head(feature[:-1].detach(), head)
        return -(weight * layers.normal_log_prob(target.detach(), predicted)).mean()

    task_value_loss = None
    if task_value is not None:
        with torch.no_grad():
            task_target = returns(task_reward, layers.scalar_head(feature, task_value))
        task_value_loss = value_loss(task_value, task_target)

    mean = rollout.policy.mean.detach()
    metrics |= {
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
    zero = torch.zeros_like(value)
    return BehaviorLosses(
        actor_loss,
        value_loss(learned_value, target),
        task_value_loss,
        predictor_loss,
        (weight * (target if bonus is None else returns(task_reward, value))).mean(),
        None if bonus is None else (weight * returns(bonus, zero)).mean(),
        {k: v.detach() for k, v in metrics.items()},
    )
