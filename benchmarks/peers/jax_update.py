"""The same training update in JAX, compiled as a whole: what `lsp` does without its options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from lsp_fast.agents import ImaginationAgent
from lsp_fast.config import Config
from lsp_fast.models.skill_predictor import segment_states
from lsp_fast.ops.types import PlanRules
from peers import jax_plan
from peers.jax_layers import (
    Layers,
    arrays,
    kl_divergence,
    lambda_return,
    normal_log_prob,
    soft_clamp_std,
    tanh_normal_log_prob,
    untransposed,
)
from peers.update_problem import agent_of, batch, check, expected, given, weights_of

Weights = dict[str, Any]
"""Every module's arrays, as `update_problem.weights_of` orders them."""


class Learned(NamedTuple):
    """What an update changes."""

    weights: Weights
    moments: dict[str, tuple[Any, Any]]
    """Adam's of every module."""
    updates: jax.Array
    key: jax.Array


class UpdateNoise(NamedTuple):
    """Standard normal numbers of one update, and which posterior states are starts."""

    latent: Any = None  # [L, B, S]
    rows: Any = None  # [N0]
    plan: Any = None  # candidates [I, N0, G, P, Z], latents [I, H, N0 G, S], actions [I, H, N0 G, A]
    epsilon: Any = None  # [N0, P, Z]
    skills: Any = None  # [P, N, Z]
    rollout: Any = None  # latents [T, N, S], actions [T, N, A]
    intrinsic: Any = None  # [N, I], on the predictor's input
    predictor: Any = None  # the same, for its own loss


class Update:
    """The update's parts as pure functions."""

    def __init__(self, agent: ImaginationAgent, starts: int, precision: str = "fp32") -> None:
        self.config, self.starts = agent.config, starts
        self.rules: PlanRules = agent.planner.rules
        self.layers: Layers = jax_plan.layers_of(agent.plan_weights(), "fp32")
        self.planning = self.layers._replace(precision=precision)
        check_config(self.config)
        c = self.config
        self.rates = {
            "world_model": c.model.learning_rate,
            "actor": c.actor.learning_rate,
            "value": c.value.learning_rate,
            "predictor": c.predictor.learning_rate,
        }

    # World model

    def model_loss(self, weights: Any, sequences: Any, latent: jax.Array) -> tuple[jax.Array, Any]:
        """The loss, and the posterior states [L, B, ...]."""
        layers, c = self.layers, self.config.model
        encoder, prior, posterior, decoder, reward = weights
        target, actions, rewards, is_first = (jnp.moveaxis(x, 1, 0) for x in sequences)
        keep = 1.0 - is_first[..., None]

        def step(state, x):
            embedding, action, keep, noise = x
            s, h = (y * keep for y in state)
            h = layers.advance(s, h, action * keep, prior)
            mean, std = layers.latent(jnp.concatenate([h, embedding], -1), *posterior)
            s = mean + std * noise
            return (s, h), (s, h, mean, std)

        zeros = tuple(jnp.zeros((target.shape[1], n)) for n in (c.stoch, c.deter))
        _, (s, h, mean, std) = jax.lax.scan(step, zeros, (layers.mlp(target, encoder), actions, keep, latent))
        feature = jnp.concatenate([s, h], -1)
        decoded, raw = jnp.split(layers.mlp(feature, decoder), 2, -1)
        clamped = soft_clamp_std(raw, c.decoder_min_std, c.decoder_max_std)
        observation_nll = -normal_log_prob(target, decoded, clamped).sum(-1).mean()
        reward_nll = -normal_log_prob(rewards, layers.head(feature, reward)).mean()
        kl = kl_divergence((mean, std), layers.latent(h, *prior[2:])).mean()
        return jnp.maximum(kl, c.free_nats) + observation_nll + reward_nll, (s, h)

    # Skills

    def plan(self, weights: Weights, start: Any, noise: UpdateNoise) -> tuple[jax.Array, jax.Array]:
        """Mean and std [N0, P, Z]."""
        model = weights["world_model"]
        seen = self.planning.rounded((model[1], weights["actor"], model[4], weights["value"]))
        prior = jnp.zeros_like(noise.epsilon), jnp.ones_like(noise.epsilon)
        _, mean, std = jax_plan.plan(self.planning, self.rules, seen, start, noise.plan, prior)
        return mean + self.config.skill.noise * noise.epsilon, std

    # Behaviour

    def log_q(self, predictor: Any, feature: jax.Array, first: jax.Array, skills: jax.Array, noise: Any) -> jax.Array:
        """log q of the one segment's skill, [N]."""
        c = self.config
        seen = jnp.concatenate([*(feature[t] for t in segment_states(c.skill.length)), first], -1)
        mean, raw = jnp.split(self.layers.mlp(seen + c.predictor.noise * noise, predictor), 2, -1)
        std = soft_clamp_std(raw, c.model.decoder_min_std, c.model.decoder_max_std)
        return normal_log_prob(skills[0], mean, std).sum(-1)

    def actor_loss(self, actor: Any, weights: Weights, start: Any, skills: jax.Array, noise: UpdateNoise) -> Any:
        """The loss; and features [T, N, F], weights and targets [T - 1, N] for the other losses."""
        layers, c = self.layers, self.config
        model = weights["world_model"]

        def step(state, drawn):
            (s, h), (skill, stoch_noise, action_noise) = state, drawn
            seen = jax.lax.stop_gradient(jnp.concatenate([s, h], -1))
            mean, std = layers.policy(seen, skill, actor)
            pre_tanh = mean + std * action_noise
            h = layers.advance(s, h, jnp.tanh(pre_tanh), model[1])
            m, deviation = layers.latent(h, *model[1][2:])
            s = m + deviation * stoch_noise
            return (s, h), (s, h, pre_tanh, mean, std)

        steps = c.imagined_steps
        held = skills[np.minimum(np.arange(steps) // c.skill.length, len(skills) - 1)]  # [T, N, Z]
        _, (s, h, *policy) = jax.lax.scan(step, start, (held, *noise.rollout))
        feature = jnp.concatenate([s, h], -1)
        log_q = self.log_q(weights["predictor"], feature, jnp.concatenate(start, -1), skills, noise.intrinsic)
        share = jnp.where(np.arange(steps)[:, None] < c.skill.length, log_q / c.skill.length, 0)  # [T, N]
        reward = layers.head(feature, model[4]) + c.skill.beta * share
        target = lambda_return(reward, layers.head(feature, weights["value"]), c.behavior.gamma, c.behavior.lam)
        weight = c.behavior.gamma ** np.arange(steps - 1, dtype=np.float32)[:, None]
        entropy = -tanh_normal_log_prob(*policy).sum(-1)[:-1]
        return -(weight * (target + c.actor.entropy * entropy)).mean(), (feature, weight, target)

    def value_loss(self, value: Any, feature: jax.Array, weight: jax.Array, target: jax.Array) -> jax.Array:
        return -(weight * normal_log_prob(target, self.layers.head(feature[:-1], value))).mean()

    # Steps

    def step(self, learned: Learned, name: str, gradient: Any) -> tuple[Learned, jax.Array]:
        """Clip and Adam, of one module; and the gradient's norm."""
        c, t = self.config.optimizer, learned.updates + 1
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient)))
        scale = jnp.minimum(1.0, c.grad_clip / (norm + 1e-6))
        gradient = jax.tree.map(lambda g: scale * g, gradient)
        first, second = learned.moments[name]
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)
        rate, root = self.rates[name] / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
        weights = jax.tree.map(
            lambda w, m, v: w - rate * m / (jnp.sqrt(v) / root + c.eps), learned.weights[name], first, second
        )
        moments = {**learned.moments, name: (first, second)}
        return learned._replace(weights={**learned.weights, name: weights}, moments=moments), norm

    def world_model(self, learned: Learned, sequences: Any, noise: UpdateNoise) -> tuple[Learned, dict, Any]:
        """One step of the world model, its metrics, and the posterior states."""
        loss = jax.value_and_grad(self.model_loss, has_aux=True)
        (value, states), gradient = loss(learned.weights["world_model"], sequences, noise.latent)
        learned, norm = self.step(learned, "world_model", gradient)
        return learned, {"world_model/loss": value, "world_model/grad_norm": norm}, states

    def behavior(self, learned: Learned, start: Any, plan: Any, noise: UpdateNoise) -> tuple[Learned, dict]:
        """One step of actor, value and predictor from start states [N0, ...] and plans [N0, P, Z]."""
        several = self.config.skill.per_plan
        start = tuple(jnp.repeat(x, several, 0) for x in start)
        mean, std = (jnp.repeat(x, several, 0).swapaxes(0, 1) for x in plan)  # [P, N, Z]
        skills, weights = mean + std * noise.skills, learned.weights
        loss = jax.value_and_grad(self.actor_loss, has_aux=True)
        (actor, (feature, weight, target)), of_actor = loss(weights["actor"], weights, start, skills, noise)
        value, of_value = jax.value_and_grad(self.value_loss)(weights["value"], feature, weight, target)

        def predictor_loss(predictor):
            return -self.log_q(predictor, feature, jnp.concatenate(start, -1), skills, noise.predictor).mean()

        fit, of_predictor = jax.value_and_grad(predictor_loss)(weights["predictor"])
        metrics = {}
        found = {"actor": (actor, of_actor), "value": (value, of_value), "predictor": (fit, of_predictor)}
        for name, (loss, gradient) in found.items():
            learned, norm = self.step(learned, name, gradient)
            metrics |= {f"behavior/{name}_loss": loss, f"behavior/{name}_grad_norm": norm}
        return learned, metrics

    def update(self, learned: Learned, sequences: Any, noise: UpdateNoise) -> tuple[Learned, dict]:
        """All of it."""
        learned, metrics, states = self.world_model(learned, sequences, noise)
        start = tuple(x.reshape(-1, x.shape[-1])[noise.rows] for x in states)
        plan = self.plan(learned.weights, start, noise)
        learned, more = self.behavior(learned, start, plan, noise)
        return learned, metrics | more

    def part(self, name: str, given: Any) -> Callable[..., tuple[Learned, dict]]:
        """(learned, sequences, noise) -> learned, metrics; `behavior` starts from what is given instead."""
        if name == "world_model":
            return lambda *arguments: self.world_model(*arguments)[:2]
        if name == "behavior":
            return lambda learned, _, noise: self.behavior(learned, *given, noise)
        return self.update

    def draw(self, key: jax.Array, like: UpdateNoise) -> UpdateNoise:
        """Other numbers of the same shapes."""
        if like.rows is not None:
            key, own = jax.random.split(key)
            total = self.config.train.batch_size * self.config.train.batch_length
            rows, like = jax.random.permutation(own, total)[: self.starts], like._replace(rows=None)
        else:
            rows = None
        shapes, structure = jax.tree.flatten(like)
        keys = jax.random.split(key, len(shapes))
        drawn = [jax.random.normal(k, x.shape) for k, x in zip(keys, shapes, strict=True)]
        return jax.tree.unflatten(structure, drawn)._replace(rows=rows)


def check_config(c: Config) -> None:
    """Raise ValueError for what is not written here."""
    plain = c.skill.source == "planned" and c.skill.intrinsic and c.skill.mi == "predict"
    plain &= c.skill.intrinsic_form == "spread" and c.predictor.inputs == "segment" and c.skill.noise_kind == "std"
    plain &= c.behavior.horizon == c.skill.length and not c.value.skill and c.planner.value == "shared"
    plain &= c.planner.objective == "lambda_return" and not c.predicts_terminations and not c.train.autocast
    if not plain:
        raise ValueError("JAX's update knows lsp without its options alone")


def noise_of(kept: dict[str, list[Any]], starts: int, i: int = 0) -> UpdateNoise:
    """The numbers that the reference drew for its update i, by stream; None where a part drew none."""

    def one(stream: str) -> Any:
        return untransposed(kept[stream][i]) if stream in kept else None

    def several(*streams: str) -> Any:
        return tuple(one(stream) for stream in streams) if streams[0] in kept else None

    rows = one("behavior/starts")
    return UpdateNoise(
        one("world_model/latent"),
        None if rows is None else rows[:starts],
        several("behavior/candidates", "behavior/plan_latent", "behavior/plan_action"),
        one("behavior/epsilon"),
        one("behavior/skills"),
        several("behavior/latent", "behavior/action"),
        one("behavior/intrinsic"),
        one("behavior/predictor"),
    )


def beginning(agent: ImaginationAgent) -> Learned:
    """An agent's weights before its first update."""
    weights = {name: arrays(x) for name, x in weights_of(agent).items()}
    moments = {k: tuple(jax.tree.map(jnp.zeros_like, x) for _ in range(2)) for k, x in weights.items()}
    return Learned(weights, moments, jnp.zeros(()), jax.random.key(0))


def checked(preset: str, starts: int, part: str) -> UpdateNoise:
    """Make that part of two updates with the reference's numbers, and return those of the first.

    Raises:
        AssertionError: losses, or the steps taken, are not the reference's.
    """
    agent = agent_of(preset, starts, backend="reference")
    want, update, sequences = expected(preset, starts, part), Update(agent, starts), sequences_of(agent)
    function = jax.jit(update.part(part, untransposed(tuple(given(agent, starts)))))
    learned, losses = beginning(agent), []
    for i in range(2):
        learned, metrics = function(learned, sequences, noise_of(want.noise, starts, i))
        learned = learned._replace(updates=learned.updates + 1)
        losses.append({name: float(x) for name, x in metrics.items()})
    check(part, want, losses, {name: tensors(x) for name, x in learned.weights.items()})
    return noise_of(want.noise, starts)


def build(preset: str, starts: int, part: str = "update", precision: str = "fp32") -> Callable[[], Any]:
    """A function of no arguments that makes that part of an update, with numbers that it draws; `checked` before.

    Args:
        precision: of the plan's products, as in `Layers`; learning's are fp32. What is checked is fp32; `bench_plan`
            looks at plans in bf16.
    """
    agent = agent_of(preset, starts, backend="reference")
    update, noise = Update(agent, starts, precision), checked(preset, starts, part)
    function = update.part(part, untransposed(tuple(given(agent, starts))))

    def whole(learned: Learned, sequences: Any) -> tuple[Learned, dict]:
        key, own = jax.random.split(learned.key)
        learned, metrics = function(learned, sequences, update.draw(own, noise))
        return learned._replace(updates=learned.updates + 1, key=key), metrics

    compiled, sequences, learned = jax.jit(whole, donate_argnums=0), sequences_of(agent), beginning(agent)

    def run() -> dict:
        nonlocal learned
        learned, metrics = compiled(learned, sequences)
        return jax.block_until_ready(metrics)

    return run


def sequences_of(agent: ImaginationAgent) -> tuple[jax.Array, ...]:
    """Observations, actions, rewards and where episodes begin, [B, L, ...]."""
    x = batch(agent.config.train.batch_size, agent.config.train.batch_length)
    return untransposed((x.observation, x.action, x.reward, x.is_first))


def tensors(x: Any) -> Any:
    """Nested tuples of arrays as tensors, matrices as PyTorch lays them out."""
    if isinstance(x, jax.Array):
        return torch.tensor(np.asarray(x.T if x.ndim == 2 else x))
    return tuple(tensors(y) for y in x) if isinstance(x, tuple) else x
