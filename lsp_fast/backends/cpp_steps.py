"""Whole losses in C++: forward and every gradient in one call, without PyTorch's small operations in between.

Each is what the operations of `cpp_learning` give when they are put together, closely. They know what the paper's rows
ask for; the losses of `lsp_fast.learning` say what that is, and compose everything else. In another dtype, on another
device, or under autocast they return None.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lsp_fast.backends.cpp import _arrays, _threads, load
from lsp_fast.backends.cpp_learning import _array
from lsp_fast.backends.fallback import fits_cpp, refuse_twice
from lsp_fast.ops.types import (
    ActorWeights,
    Dense,
    ImagineNoise,
    Information,
    MLPWeights,
    Normal,
    PriorWeights,
    State,
    WorldModelWeights,
)


class WorldModelParts(NamedTuple):
    """The loss, and what it was taken at; only the loss has a history, of the weights, and it can be followed once."""

    loss: Tensor  # []
    states: State  # [L, B, ...]
    kl: Tensor  # [], as the next three
    observation_nll: Tensor
    reward_nll: Tensor
    reward_error: Tensor


def world_model(
    observations: Tensor,
    actions: Tensor,
    is_first: Tensor,
    rewards: Tensor,
    noise: Tensor,
    weights: WorldModelWeights,
    free_nats: float,
    bounds: tuple[float, float],
    balance: float,
    reward_scale: float,
    isa: str = "auto",
) -> WorldModelParts | None:
    """`lsp_fast.learning.world_model.world_model_loss` of vectors, without a discount head (SPEC section 2).

    Args:
        observations: [L, B, O], normalised.
        actions, is_first, noise: as `ops.observe` takes them.
        rewards: [L, B].
        free_nats: below them the mean KL has no gradient.
        bounds: of the decoder's standard deviation.
        balance: `model.kl_balance`.
        reward_scale: `model.reward_scale`.
        isa: one of `cpp.instruction_sets()`; auto takes the first.
    """
    encoder, prior, posterior, decoder, reward = weights
    of_encoder, of_decoder, of_reward = map(_dense, (encoder, decoder, reward))
    gru = (prior.gru.weight_ih, prior.gru.bias_ih), (prior.gru.weight_hh, prior.gru.bias_hh)
    of_rssm = prior.inp, *gru, prior.hidden, prior.out, posterior.hidden, posterior.out
    flat = [x for layer in (*of_encoder, *of_rssm, *of_decoder, *of_reward) for x in layer]
    inputs = observations, actions, rewards, noise
    if not fits_cpp("world_model", *inputs, *flat) or noise.numel() == 0 or any(x.requires_grad for x in inputs):
        return None
    layers = of_encoder, prior, posterior, of_decoder, of_reward
    # The bounds are of the log variance.
    rules = free_nats, *(2 * math.log(bound) for bound in bounds), balance or 1, 1 - balance, reward_scale
    given = (observations, actions, is_first, rewards, noise), layers, rules, isa, torch.is_grad_enabled()
    loss, stoch, deter, *parts = _WorldModel.apply(given, *flat)  # pyright: ignore[reportGeneralTypeIssues]
    return WorldModelParts(loss, State(stoch, deter), *parts)


class _WorldModel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: tuple, *flat: Tensor) -> tuple[Tensor, ...]:
        inputs, layers, rules, isa, graded = given
        wanted = graded and any(ctx.needs_input_grad)
        stoch, deter, parts, arrays = load().world_model(
            *map(_array, inputs), _arrays(layers), *rules, wanted, _threads(), isa
        )
        ctx.arrays = [arrays]
        each = torch.tensor(parts)
        loss = each[0].clamp(min=rules[0]) + each[1] + rules[-1] * each[2]
        found = torch.from_numpy(stoch), torch.from_numpy(deter), *each.unbind()
        ctx.mark_non_differentiable(*found)
        return loss, *found

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        return None, *_handed_on("world_model", ctx.arrays, 0, gradients[0])


class BehaviorParts(NamedTuple):
    """The losses, and what they were taken at; only losses have a history, each of its own module's weights, and it can
    be followed once."""

    actor_loss: Tensor  # []
    value_loss: Tensor  # []
    predictor_loss: Tensor | None  # []
    task_reward: Tensor  # [T, N], as the next two
    value: Tensor
    entropy: Tensor
    feature: Tensor  # [T, N, F]
    target: Tensor  # [T - 1, N]
    policy: Normal  # [T, N, A]
    log_q: Tensor | None  # [J, N]


def behavior(
    start: State,
    prior: PriorWeights,
    actor: ActorWeights,
    reward: MLPWeights,
    value: MLPWeights,
    slow: MLPWeights | None,
    skills: Tensor | None,
    skill_length: int,
    noise: ImagineNoise,
    information: Information | None,
    gamma: float,
    lam: float,
    of_actor: tuple[float, float, float],
    largest_reward: Tensor | None = None,
    isa: str = "auto",
) -> BehaviorParts | None:
    """`lsp_fast.learning.behavior.behavior_losses` for states that are all live, discounted by gamma alone, and judged
    by one value without the skill (SPEC sections 3 and 4).

    Args:
        slow: the value's slow copy, which then bootstraps it; None: the value does.
        start, skills, skill_length, noise: as `ops.imagine` takes them, of T >= 2 steps, with noise of actions.
        of_actor: weights of the entropy in the actor's objective and of saturation in its loss, and the mean from which
            that counts.
        largest_reward: so far, 0-d, which with this rollout's bounds what the value learns from; None: nothing does.
        isa: one of `cpp.instruction_sets()`; auto takes the first.
    """
    groups = [_dense(actor.mlp), _dense(value), () if information is None else _dense(information.predictor)]
    bootstrap = None if slow is None else _dense(slow)
    flat = [x for group in groups for layer in group for x in layer]
    fixed = [*start, *noise, *(() if skills is None else (skills,)), *(x for layer in bootstrap or () for x in layer)]
    if not fits_cpp("behavior", *fixed, *flat) or len(noise.stoch) < 2 or len(start.stoch) == 0:
        return None
    told = None
    if information is not None:
        i = information
        limits = (2 * math.log(bound) for bound in i.bounds)
        means, deviations = i.scales or (None, None)
        arrays = (None if x is None else _array(x) for x in (means, deviations, i.beta, i.intrinsic, i.fit))
        told = groups[2], tuple(i.seen), i.noise, *limits, tuple(i.shares), i.offset, *arrays
    weights = (tuple(actor[:4]), _dense(reward), groups[1], bootstrap)
    seen = None if skills is None else actor.scaled(skills)
    inputs = *start, skills, seen, skill_length, *noise
    largest = math.inf if largest_reward is None else largest_reward.item()
    given = inputs, (prior, *weights), (gamma, lam, *of_actor, largest), told, isa, torch.is_grad_enabled()
    sizes = [2 * len(group) for group in groups]
    out = _Behavior.apply(given, sizes, *flat)
    actor_loss, value_loss, predictor_loss, task_reward, values, target, spread, feature, mean, std, log_q = out  # pyright: ignore[reportGeneralTypeIssues]
    losses = actor_loss, value_loss, None if information is None else predictor_loss
    return BehaviorParts(*losses, task_reward, values, spread, feature, target, Normal(mean, std), log_q)


class _Behavior(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: tuple, sizes: list[int], *flat: Tensor) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        inputs, weights, rules, told, isa, graded = given
        wanted = graded and any(ctx.needs_input_grad)
        losses, *found, arrays = load().behavior(
            *(_array(x) if isinstance(x, Tensor) else x for x in inputs),
            _arrays(weights),
            *rules,
            _arrays(told),
            wanted,
            _threads(),
            isa,
        )
        ctx.arrays, ctx.sizes = list(arrays), sizes
        found = [None if x is None else torch.from_numpy(x) for x in found]
        ctx.mark_non_differentiable(*(x for x in found if x is not None))
        return *torch.tensor(losses).unbind(), *found

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        found: list[Tensor | None] = []
        for i, size in enumerate(ctx.sizes):
            found += _handed_on("behavior", ctx.arrays, i, gradients[i]) if gradients[i] is not None else [None] * size
        return None, None, *found


def _dense(mlp: MLPWeights) -> tuple[Dense, ...]:
    return mlp.hidden if mlp.out is None else (*mlp.hidden, mlp.out)


def _handed_on(name: str, kept: list, i: int, gradient: Tensor) -> list[Tensor]:
    """The gradients of loss i, found on the way forward, times that of the loss. They are not copied, so only once."""
    refuse_twice(name)
    if kept[i] is None:
        raise RuntimeError(f"{name}: its gradient has been taken; it is there only once")
    arrays, kept[i] = kept[i], None
    found = list(map(torch.from_numpy, arrays))
    return found if gradient == 1 else [x * gradient for x in found]
