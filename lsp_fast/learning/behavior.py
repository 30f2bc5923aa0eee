"""Behaviour learning: the actor-critic in imagination, with the intrinsic reward (SPEC sections 3 and 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from lsp_fast.backends import REFERENCE, Backend
from lsp_fast.config import ActorConfig, Config
from lsp_fast.learning.intrinsic import (
    intrinsic_reward,
    segment_log_probs,
    segment_noise,
    shares,
    step_information,
)
from lsp_fast.learning.value_loss import largest_reward, value_limit, value_loss
from lsp_fast.models.skill_predictor import SkillPredictor
from lsp_fast.models.world_model import discounts
from lsp_fast.noise import Noise
from lsp_fast.ops import densities, layers
from lsp_fast.ops.imagine import held_skills
from lsp_fast.ops.types import ImagineNoise, Information, MLPWeights, Normal, PlanWeights, State, features


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
    slow_value: MLPWeights | None = None
    """With `value.slow`: a copy of `value`, by which its returns are bootstrapped."""
    slow_task_value: MLPWeights | None = None
    """The same of `task_value`."""
    beta: Tensor | None = None
    """The weight of the intrinsic reward where it is not `skill.beta`, 0-d."""
    largest_reward: Tensor | None = None
    """With `value.clip_targets`: the largest |R| or |R + beta r^i| that was imagined so far, 0-d."""


class BehaviorNoise(NamedTuple):
    """Standard normal numbers of one update of the behaviour; None where nothing asks for them."""

    rollout: ImagineNoise  # [T, N, ...]
    intrinsic: Tensor | None  # [J, ...], for each segment, on the predictor's input
    predictor: Tensor | None  # the same, for its own loss
    others: Tensor | None  # [J - 1, T, N, Z], skills that `compose` compares with


class BehaviorLosses(NamedTuple):
    """What each optimiser minimises; None where the module does not exist. `task_return` and `intrinsic_return` split
    the actor's objective for diagnosis: each is the part of the mean weighted return that its reward brought (of r^i
    before its weight, where that is `models.beta`); None where there is no diagnosis. `feature` [T, N, F] is what was
    imagined. `largest_reward` is `models.largest_reward`, or this update's where that is larger."""

    actor: Tensor
    value: Tensor
    task_value: Tensor | None
    predictor: Tensor | None
    task_return: Tensor | None
    intrinsic_return: Tensor | None
    feature: Tensor
    metrics: dict[str, Tensor]
    largest_reward: Tensor | None = None


class Imagined(NamedTuple):
    """The actor's loss, and what the other losses take of its rollout, without history."""

    actor_loss: Tensor
    task_return: Tensor | None
    intrinsic_return: Tensor | None
    feature: Tensor  # [T, N, F]
    judged: Tensor  # [T, N, F], or [T, N, F + Z]: what the value sees
    task_reward: Tensor  # [T, N]
    discount: Tensor  # [T, N]
    weight: Tensor  # [T - 1, N]
    target: Tensor  # [T - 1, N]
    largest_reward: Tensor | None  # []
    metrics: dict[str, Tensor]


def behavior_noise(
    noise: Noise, n: int, models: BehaviorModels, config: Config, backend: Backend = REFERENCE
) -> BehaviorNoise:
    """Draw what N rollouts and their rewards need, each purpose from a stream of its own."""
    c, weights, steps = config.skill, models.plan, config.imagined_steps
    latent = noise.normal("behavior/latent", steps, n, weights.prior.out.weight.shape[0] // 2)
    rollout = ImagineNoise(latent, noise.normal("behavior/action", steps, n, weights.action_dim))
    if c.intrinsic and c.mi == "compose":
        return BehaviorNoise(
            rollout, None, None, noise.normal("behavior/compose", c.compose_skills - 1, steps, n, c.dim)
        )
    if models.predictor is None:
        return BehaviorNoise(rollout, None, None, None)
    streams = "behavior/intrinsic", "behavior/predictor"
    fed, fit = (segment_noise(models.predictor, n, config, noise, stream, backend) for stream in streams)
    return BehaviorNoise(rollout, fed, fit, None)


def intrinsic_bonus(
    start: State,
    states: State,
    feature: Tensor,
    skills: Tensor | None,
    skill_policy: Normal | None,
    models: BehaviorModels,
    noise: BehaviorNoise,
    config: Config,
    backend: Backend,
    paid: int | None,
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """The intrinsic reward as the configuration wants it: r^i of every imagined state [T, N], and metrics.

    Args:
        start: [N, ...]
        states, feature: the imagined ones [T, N, ...], and their features [T, N, F]: the same tensor that all heads
            see, since gradients would add up in another order through a copy.
        skills, skill_policy, paid: as `behavior_losses` takes them.
    """
    c, steps = config.skill, len(feature)
    if noise.others is not None:
        assert skills is not None
        held = held_skills(skills, c.length, steps)  # [T, N, Z]
        information = step_information(start, states, held, models.plan, noise.others)
        return first_rollouts(information, paid), {"mutual_information": information.mean()}
    if models.predictor is None:
        return None, {}
    assert skills is not None and skill_policy is not None and noise.intrinsic is not None
    log_q = segment_log_probs(models.predictor, feature, features(start), skills, noise.intrinsic, backend)
    return predicted_bonus(log_q, skills, skill_policy, steps, config, paid)


def predicted_bonus(
    log_q: Tensor, skills: Tensor, skill_policy: Normal, steps: int, config: Config, paid: int | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """r^i of the predictor's log q [J, N] on every step [T, N], and metrics."""
    c = config.skill
    # In nats above what a guess from N(0, I) would earn, where that is to pay nothing.
    earned = log_q + config.skill_offset if config.skill_offset else log_q
    reward = first_rollouts(intrinsic_reward(earned, c.length, steps, c.intrinsic_form), paid)
    log_p = densities.normal_log_prob(skills, *skill_policy).sum(-1)[: len(log_q)]  # [J, N]
    return reward, {
        "log_q": log_q.mean(),
        "log_q_minus_log_p": (log_q - log_p).mean(),
    }


def first_rollouts(reward: Tensor, paid: int | None) -> Tensor:
    """Rewards [T, N] of the first rollouts, and none on the others; None pays all."""
    return reward if paid is None else torch.cat([reward[:, :paid], torch.zeros_like(reward[:, paid:])], 1)


def return_range(returns: Tensor) -> Tensor:
    """The 95th percentile of imagined returns less the 5th, 0-d, without history (SPEC section 8)."""
    ranked = returns.detach().float().flatten().sort().values

    def percentile(share: float) -> Tensor:
        rank = share * (len(ranked) - 1)  # between two of them: where is known without the numbers
        below = int(rank)
        return ranked[below].lerp(ranked[min(below + 1, len(ranked) - 1)], rank - below)

    return percentile(0.95) - percentile(0.05)


SATURATED = 1.5
"""The policy's mean before the tanh from which `actor.saturation` counts: tanh's slope is 0.18 there."""


def actor_regularisers(
    target: Tensor, entropy: Tensor, mean: Tensor, config: ActorConfig
) -> tuple[Tensor, Tensor | None]:
    """What the actor earns and what it pays beside its returns, in every imagined state.

    Args:
        target: lambda-returns [T - 1, N].
        entropy: [T - 1, N].
        mean: of the policy before its tanh, [T - 1, N, A].

    Returns:
        the weighted entropy [T - 1, N]; the penalty on saturation [T - 1, N], None without one.
    """
    earned = config.entropy * entropy
    if config.entropy_kind == "range":
        earned = return_range(target) * earned
    if not config.saturation:
        return earned, None
    return earned, config.saturation * (mean.abs() - SATURATED).clamp(min=0).square().mean(-1)


def imagined(
    start: State,
    skills: Tensor | None,
    skill_policy: Normal | None,
    models: BehaviorModels,
    noise: BehaviorNoise,
    config: Config,
    backend: Backend,
    live: Tensor | None,
    diagnose: bool,
    paid: int | None = None,
) -> Imagined:
    """Roll the policy out and judge it. Arguments are those of `behavior_losses`."""
    b, weights = config.behavior, models.plan
    assert weights.actor is not None
    rollout = backend.imagine(start, weights.prior, weights.actor, skills, config.skill.length, noise.rollout)
    judged = feature = features(rollout.states)  # [T, N, F]
    if config.value.skill:
        assert skills is not None
        # The skill that acts in each imagined state, not the one that led there.
        acting = held_skills(skills, config.skill.length, len(feature) + 1)[1:]
        judged = torch.cat([feature, acting], -1)  # [T, N, F + Z]
    task_reward = layers.scalar_head(feature, weights.reward, backend.mlp)  # [T, N]
    value = layers.scalar_head(judged, models.value, backend.mlp)
    discount = discounts(feature, b.gamma, weights.discount, backend)
    # weight_t = product of the discounts before state t, the first state's being 1 [D].
    weight = torch.cat([torch.ones_like(discount[:1]), discount[:-2]]).cumprod(0).detach()  # [T - 1, N]
    if live is not None:
        weight = weight * live
    told, metrics = intrinsic_bonus(
        start, rollout.states, feature, skills, skill_policy, models, noise, config, backend, paid
    )
    bonus = None
    if told is not None:
        bonus = (config.skill.beta if models.beta is None else models.beta) * told
        metrics["intrinsic_reward_std"] = bonus.std()
    reward = task_reward if bonus is None else task_reward + bonus

    def returns(reward: Tensor, value: Tensor) -> Tensor:
        return backend.lambda_return(reward[:-1], value[:-1], discount[:-1], value[-1], b.lam)  # [T - 1, N]

    target = returns(reward, value)
    assert noise.rollout.action is not None
    entropy = backend.entropy(rollout.policy, noise.rollout.action)  # [T, N]
    earned, penalty = actor_regularisers(target, entropy[:-1], rollout.policy.mean[:-1], config.actor)
    actor_loss = -(weight * (target + earned)).mean()
    if penalty is not None:
        actor_loss = actor_loss + (weight * penalty).mean()
    metrics |= rollout_metrics(task_reward, reward, value, target, entropy, rollout.policy)
    task_return = intrinsic_return = None
    if diagnose:
        task_return = (weight * (target if bonus is None else returns(task_reward, value))).mean()
        part = bonus if models.beta is None else told
        if part is not None:
            intrinsic_return = (weight * returns(part, torch.zeros_like(value))).mean()
    return Imagined(
        actor_loss,
        task_return,
        intrinsic_return,
        feature.detach(),
        judged.detach(),
        task_reward.detach(),
        discount.detach(),
        weight,
        target.detach(),
        largest_reward(models.largest_reward, task_reward, reward),
        {k: v.detach() for k, v in metrics.items()},
    )


def rollout_metrics(
    task_reward: Tensor, reward: Tensor, value: Tensor, target: Tensor, entropy: Tensor, policy: Normal
) -> dict[str, Tensor]:
    """What imagined states are like: rewards, value and entropy [T, N], returns [T - 1, N], and the policy."""
    return {
        "task_reward": task_reward.mean(),
        "task_reward_std": task_reward.std(),
        "return": target.mean(),
        "value": value.mean(),
        "value_abs_max": value.abs().amax(),
        "reward_abs_max": reward.abs().amax(),
        "entropy": entropy.mean(),
        "action_std": policy.std.mean(),
        "saturation": (policy.mean.detach().abs() > 2).float().mean(),
    }


def predictor_loss(
    predictor: SkillPredictor,
    feature: Tensor,
    first: Tensor,
    skills: Tensor,
    noise: Tensor,
    live: Tensor | None,
    backend: Backend,
) -> Tensor:
    """-mean log q of the segments' skills; arguments as `segment_log_probs` and `behavior_losses` take them."""
    fit = segment_log_probs(predictor, feature, first, skills, noise, backend)
    return -(fit if live is None else live * fit).mean()


class Parts(NamedTuple):
    """What `behavior_losses` is put together of. Each gives one loss with a history of its own, so that a compiled one
    can take its place: the gradient of a compiled function is taken of all its outputs at once, and only once."""

    imagined: Callable[..., Imagined] = imagined
    value_loss: Callable[..., Tensor] = value_loss
    predictor_loss: Callable[..., Tensor] = predictor_loss


def behavior_losses(
    start: State,
    skills: Tensor | None,
    skill_policy: Normal | None,
    models: BehaviorModels,
    noise: Noise,
    config: Config,
    backend: Backend,
    live: Tensor | None = None,
    *,
    diagnose: bool = True,
    paid: int | None = None,
    parts: Parts = Parts(),  # noqa: B008
) -> BehaviorLosses:
    """Imagine from detached posterior states and return every loss.

    Args:
        start: [N, ...], detached.
        skills: [P, N, Z], detached; None without skills.
        skill_policy: p(z | s_0), mean and std [P, N, Z], for log p.
        live: [N], 0 at a terminal state, from which nothing is learned, and 1 at others; None: all are live.
        diagnose: split the actor's objective, too.
        paid: rollouts that the intrinsic reward is paid on, the first ones; None: all.
        parts: what computes.
    """
    drawn = behavior_noise(noise, len(start.stoch), models, config, backend)
    if live is None and not diagnose and parts == Parts():
        whole = whole_losses(start, skills, skill_policy, models, drawn, config, backend, paid)
        if whole is not None:
            return whole
    # The actor's loss trains the actor alone: what the others' gradients would be need not be computed.
    plan = models.plan
    fixed = _detached(models._replace(plan=plan._replace(actor=None), task_value=None, predictor=None))
    bootstrap = fixed.slow_value or fixed.value
    judges = fixed._replace(plan=fixed.plan._replace(actor=plan.actor), value=bootstrap, predictor=models.predictor)
    found = parts.imagined(start, skills, skill_policy, judges, drawn, config, backend, live, diagnose, paid)
    limit = value_limit(found.largest_reward, config.behavior.gamma)
    task_value_loss = None
    if models.task_value is not None:
        with torch.no_grad():
            task_value = layers.scalar_head(found.judged, models.slow_task_value or models.task_value, backend.mlp)
            reward, discount = found.task_reward[:-1], found.discount[:-1]
            task_target = backend.lambda_return(reward, task_value[:-1], discount, task_value[-1], config.behavior.lam)
        task_value_loss = parts.value_loss(found.judged, found.weight, task_target, models.task_value, limit, backend)
    fit = None
    if drawn.predictor is not None:
        fit = parts.predictor_loss(
            models.predictor, found.feature, features(start), skills, drawn.predictor, live, backend
        )
    return BehaviorLosses(
        found.actor_loss,
        parts.value_loss(found.judged, found.weight, found.target, models.value, limit, backend),
        task_value_loss,
        fit,
        found.task_return,
        found.intrinsic_return,
        found.feature,
        found.metrics,
        found.largest_reward,
    )


def whole_losses(
    start: State,
    skills: Tensor | None,
    skill_policy: Normal | None,
    models: BehaviorModels,
    noise: BehaviorNoise,
    config: Config,
    backend: Backend,
    paid: int | None,
) -> BehaviorLosses | None:
    """`behavior_losses` in one call, where the backend has one that knows this configuration."""
    c, plan, predictor = config.skill, models.plan, models.predictor
    elsewhere = plan.discount, models.task_value, noise.others
    if backend.behavior is None or config.value.skill or any(x is not None for x in elsewhere):
        return None
    if config.actor.entropy_kind != "fixed":
        return None
    information = None
    if predictor is not None:
        if predictor.config.inputs == "per_step":
            return None
        assert noise.intrinsic is not None and noise.predictor is not None
        each = shares(len(noise.intrinsic), c.length, config.imagined_steps, c.intrinsic_form)
        beta = start.stoch.new_full((len(start.stoch),), c.beta) if models.beta is None else models.beta
        beta = first_rollouts(beta.expand(1, len(start.stoch)), paid)[0]  # [N]
        of_input = predictor.mlp.weights(), predictor.steps, predictor.config.noise, predictor.bounds
        seen_as = predictor.scales() if predictor.config.normalise else None
        paying = each, beta, config.skill_offset
        information = Information(*of_input, seen_as, *paying, noise.intrinsic, noise.predictor)
    found = backend.behavior(
        start,
        plan.prior,
        plan.actor,
        plan.reward,
        models.value,
        models.slow_value,
        skills,
        c.length,
        noise.rollout,
        information,
        config.behavior.gamma,
        config.behavior.lam,
        (config.actor.entropy, config.actor.saturation, SATURATED),
        models.largest_reward,
    )
    if found is None:
        return None
    reward, metrics = found.task_reward, {}
    if found.log_q is not None:
        assert skills is not None and skill_policy is not None and information is not None
        told, metrics = predicted_bonus(found.log_q, skills, skill_policy, len(reward), config, paid)
        bonus = (c.beta if models.beta is None else models.beta) * told
        metrics["intrinsic_reward_std"] = bonus.std()
        reward = reward + bonus
    metrics |= rollout_metrics(found.task_reward, reward, found.value, found.target, found.entropy, found.policy)
    losses = found.actor_loss, found.value_loss, None, found.predictor_loss
    largest = largest_reward(models.largest_reward, found.task_reward, reward)
    return BehaviorLosses(*losses, None, None, found.feature, metrics, largest)


def _detached(weights: Any) -> Any:
    """Nested tuples of weights without gradients; they share their memory."""
    return tree_map_only(Tensor, Tensor.detach, weights)
