"""The same plan in JAX, compiled as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsp_fast.ops.types import PlanRules, PlanWeights
from peers.jax_layers import Layers, arrays, lambda_return, untransposed


def build(problem, precision: str) -> Callable[[], Any]:
    """A function of no arguments that plans; `precision` is as in `Layers`."""
    layers, rules = layers_of(problem.weights, precision), problem.rules
    weights = layers.rounded(weights_of(problem.weights))
    start, noise, prior = (untransposed(tuple(x)) for x in (problem.start, problem.noise, problem.prior))
    compiled = jax.jit(lambda *arguments: plan(layers, rules, *arguments))
    return lambda: np.asarray(jax.block_until_ready(compiled(weights, start, noise, prior))[0])


def layers_of(weights: PlanWeights, precision: str) -> Layers:
    """With the numbers beside these weights."""
    return Layers(precision, weights.prior.min_std, None if weights.actor is None else tuple(weights.actor[1:4]))


def weights_of(weights: PlanWeights) -> tuple:
    """Transition, actor's layers or None, reward and value or None, as arrays."""
    actor = None if weights.actor is None else weights.actor.mlp
    return arrays((tuple(weights.prior[:4]), actor, weights.reward, weights.value))


def plan(layers: Layers, rules: PlanRules, weights: Any, start: Any, noise: Any, prior: Any) -> tuple:
    """All iterations' values [I, N, G], and the mean and std [N, P, Z] that CEM ends with.

    Args:
        weights: as `weights_of` gives them.
        start, noise, prior: as `lsp_fast.planning.plan.plan` takes them. Without an actor plans are actions, which
            are scored by rewards alone.
    """
    transition, actor, reward, value = weights
    starts = tuple(jnp.repeat(x, noise[0].shape[2], 0) for x in start)
    mean, std, all_values = *prior, []

    def step(carry, drawn):
        (s, h), (z, stoch_noise, action_noise) = carry, drawn
        action = z
        if actor is not None:
            m, deviation = layers.policy(jnp.concatenate([s, h], -1), z, actor)
            action = jnp.tanh(m if action_noise is None else m + deviation * action_noise)
        h = layers.advance(s, h, action, transition)
        m, deviation = layers.latent(h, *transition[2:])
        s = m + deviation * stoch_noise
        feature = jnp.concatenate([s, h], -1)
        return (s, h), (layers.head(feature, reward), None if actor is None else layers.head(feature, value))

    for i in range(noise[0].shape[0]):
        plans = mean[:, None] + std[:, None] * noise[0][i]  # [N, G, P, Z]
        if rules.clip is not None:
            plans = jnp.clip(plans, -rules.clip, rules.clip)
        steps = noise[1].shape[1]
        held = np.minimum(np.arange(steps) // rules.skill_length, plans.shape[2] - 1)
        skills = plans.reshape(-1, *plans.shape[2:]).transpose(1, 0, 2)[held]
        drawn = (skills, noise[1][i], None if noise[2] is None else noise[2][i])
        _, (rewards, values) = jax.lax.scan(step, starts, drawn)
        if actor is None:
            returns = (rules.gamma ** np.arange(steps)[:, None] * rewards).sum(0)
        else:
            returns = lambda_return(rewards, values, rules.gamma, rules.lam)[0]
        score = returns.reshape(plans.shape[:2])
        elites = jax.lax.top_k(score, rules.num_elites)[1]
        kept = jnp.take_along_axis(plans, elites[:, :, None, None], 1)
        mean, std = kept.mean(1), jnp.sqrt(kept.var(1) + rules.floor)
        all_values.append(score)
    return jnp.stack(all_values), mean, std
