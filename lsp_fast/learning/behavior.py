"""Behaviour learning: the actor-critic in imagination, with the intrinsic reward (SPEC sections 3 and 4)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lsp_fast.backends import Backend
from lsp_fast.config import Config
from lsp_fast.models.skill_predictor import SkillPredictor
from lsp_fast.models.world_model import discounts
from lsp_fast.noise import Noise
from lsp_fast.ops import layers
from lsp_fast.ops.imagine import held_skills
from lsp_fast.ops.types import (
    ActorWeights,
    ImagineNoise,
    MLPWeights,
    Normal,
    PlanWeights,
    PriorWeights,
    State,
    features,
    map_state,
)


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


def composed_information(
    before: State, after: Tensor, skills: Tensor, actor: ActorWeights, prior: PriorWeights
) -> Tensor:
    """What a transition tells about its skill, from the policy and the world model alone (SPEC section 4, compose):

        r^i = log p(s' | s, a(z)) - log mean_j p(s' | s, a(z_j)),   a(z) = tanh(mean) of actor([s, h, z])

    Args:
        before: [M, ...], the states in which the skills act. Gradients do not flow from the actor's input into it [D].
        after: [M, S], the stochastic part s' of the states that follow.
        skills: [J, M, Z], the own one first.

    Returns:
        [M], at most log J, which is reached where no other skill explains s'; 0 where the policy ignores its skill.
    """
    count, rows, _ = skills.shape
    every = map_state(lambda x: x.repeat(count, 1), before)  # [J M, ...]
    # The own action is the skill's too, not the one that was realised: only skills are to set the scores apart.
    action = layers.act(layers.actor(features(every).detach(), skills.flatten(0, 1), actor), None)
    reached = layers.prior(layers.advance(every, action, prior), prior)
    score = layers.normal_log_prob(after.repeat(count, 1), *reached).sum(-1).view(count, rows)
    # x_0 - log mean exp x, as a log-softmax: it never exceeds 0, so that rounding cannot lift r^i above log J.
    return torch.log_softmax(score, 0)[0] + math.log(count)


def step_information(
    start: State, states: State, held: Tensor, weights: PlanWeights, config: Config, noise: Noise, stream: str
) -> Tensor:
    """`composed_information` of every imagined step, each compared with skills of its own from N(0, I).

    Args:
        start: [N, ...]
        states: [T, N, ...], the imagined ones.
        held: [T, N, Z], the skills that acted in the states before them.

    Returns:
        [T, N]
    """
    assert weights.actor is not None
    others = noise.normal(stream, config.skill.compose_skills - 1, *held.shape)
    before = State(*(torch.cat([x[None], y[:-1]]).flatten(0, 1) for x, y in zip(start, states, strict=True)))
    skills = torch.cat([held[None], others]).flatten(1, 2)  # [J, T N, Z]
    information = composed_information(before, states.stoch.flatten(0, 1), skills, weights.actor, weights.prior)
    return information.view(held.shape[:2])


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
        predictor: where the intrinsic reward is on and `skill.mi` is predict.
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
    # In the start and in every imagined state: [T + 1, N, Z].
    held = None if skills is None else held_skills(skills, config.skill.length, steps + 1)
    judged = feature
    if config.value.skill:
        assert held is not None
        judged = torch.cat([feature, held[1:]], -1)  # [T, N, F + Z]
    task_reward = layers.scalar_head(feature, weights.reward)  # [T, N]
    value = layers.scalar_head(judged, learned_value)
    discount = discounts(feature, b.gamma, weights.discount)
    # weight_t = product of the discounts before state t, the first state's being 1 [D].
    weight = torch.cat([torch.ones_like(discount[:1]), discount[:-2]]).cumprod(0).detach()  # [T - 1, N]
    metrics: dict[str, Tensor] = {}

    reward, bonus, predictor_loss = task_reward, None, None
    if config.skill.intrinsic and config.skill.mi == "compose":
        assert held is not None
        information = step_information(start, rollout.states, held[:-1], weights, config, noise, "behavior/compose")
        bonus = config.skill.beta * information
        metrics["mutual_information"] = information.mean()
    elif predictor is not None:
        assert skills is not None and skill_policy is not None
        log_q = segment_log_probs(predictor, feature, first, skills, config, noise, "behavior/intrinsic")
        bonus = config.skill.beta * intrinsic_reward(log_q, config.skill.length, steps, config.skill.intrinsic_form)
        fit = segment_log_probs(predictor, feature.detach(), first, skills, config, noise, "behavior/predictor")
        predictor_loss = -fit.mean()
        log_p = layers.normal_log_prob(skills, *skill_policy).sum(-1)[: len(log_q)]  # [J, N]
        metrics |= {"log_q": log_q.mean(), "log_q_minus_log_p": (log_q - log_p).mean()}
    if bonus is not None:
        reward = task_reward + bonus
        metrics["intrinsic_reward_std"] = bonus.std()

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
    if task_value is not None:
        with torch.no_grad():
            task_target = returns(task_reward, layers.scalar_head(judged, task_value))
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
