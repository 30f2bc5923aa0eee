"""The same plan in JAX, compiled as a whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def build(problem, precision: str):
    """A function of no arguments that plans.

    Matrix products multiply float32 (`fp32`), TF32 where the device has it (`tf32`), or bfloat16 summed in float32
    (`bf16`).
    """
    operand = jnp.bfloat16 if precision == "bf16" else jnp.float32
    # JAX's default is TF32 on recent GPUs.
    exactness = "highest" if precision == "fp32" else "default"

    def arrays(x):
        if hasattr(x, "detach"):
            return jnp.asarray(x.detach().numpy())
        return tuple(arrays(y) for y in x) if isinstance(x, tuple) else x

    def matrices(x):
        """Weights transposed and rounded beforehand; biases stay."""
        if isinstance(x, tuple):
            return tuple(matrices(y) for y in x)
        return x.T.astype(operand) if isinstance(x, jax.Array) and x.ndim == 2 else x

    def product(x, weight):
        return jnp.dot(x.astype(operand), weight, precision=exactness, preferred_element_type=jnp.float32)

    def dense(x, layer):
        return product(x, layer[0]) + layer[1]

    def mlp(x, weights):
        for layer in weights[0]:
            x = jax.nn.elu(dense(x, layer))
        return dense(x, weights[1])

    rules = problem.rules
    weights, start = matrices(arrays(tuple(problem.weights))), arrays(tuple(problem.start))
    noise, prior = arrays(tuple(problem.noise)), arrays(tuple(problem.prior))
    acts = problem.weights.actor is None  # actions are planned, and scored by rewards alone
    constants = {"prior": problem.weights.prior.min_std, "actor": None if acts else tuple(problem.weights.actor[1:])}

    def act(actor, s, h, z, noise):
        scale, init_std, min_std = constants["actor"]
        m, raw = jnp.split(mlp(jnp.concatenate([s, h, z], -1), actor[0]), 2, -1)
        m = scale * jnp.tanh(m / scale)
        if noise is not None:
            m = m + (jax.nn.softplus(raw + np.log(np.expm1(init_std))) + min_std) * noise
        return jnp.tanh(m)

    def plan(weights, start, noise, prior):
        transition, actor, reward, value, _ = weights
        inp, (w_ih, w_hh, b_ih, b_hh), hidden, out, _ = transition
        groups = noise[0].shape[2]
        starts = tuple(jnp.repeat(x, groups, 0) for x in start)
        mean, std, all_values = *prior, []

        def step(carry, drawn):
            (s, h), (z, stoch_noise, action_noise) = carry, drawn
            action = z if acts else act(actor, s, h, z, action_noise)
            x = jax.nn.elu(dense(jnp.concatenate([s, action], -1), inp))
            a, b = jnp.split(product(x, w_ih) + b_ih, 3, -1), jnp.split(product(h, w_hh) + b_hh, 3, -1)
            r, u = jax.nn.sigmoid(a[0] + b[0]), jax.nn.sigmoid(a[1] + b[1])
            fresh = jnp.tanh(a[2] + r * b[2])
            h = fresh + u * (h - fresh)
            m, raw = jnp.split(dense(jax.nn.elu(dense(h, hidden)), out), 2, -1)
            s = m + (jax.nn.softplus(raw) + constants["prior"]) * stoch_noise
            feature = jnp.concatenate([s, h], -1)
            return (s, h), (mlp(feature, reward)[:, 0], None if acts else mlp(feature, value)[:, 0])

        for i in range(noise[0].shape[0]):
            plans = mean[:, None] + std[:, None] * noise[0][i]  # [N, G, P, Z]
            if rules.clip is not None:
                plans = jnp.clip(plans, -rules.clip, rules.clip)
            steps = noise[1].shape[1]
            held = np.minimum(np.arange(steps) // rules.skill_length, plans.shape[2] - 1)
            skills = plans.reshape(-1, *plans.shape[2:]).transpose(1, 0, 2)[held]
            drawn = (skills, noise[1][i], None if noise[2] is None else noise[2][i])
            _, (rewards, values) = jax.lax.scan(step, starts, drawn)
            if acts:
                returns = (rules.gamma ** np.arange(steps)[:, None] * rewards).sum(0)
            else:
                returns = values[-1]
                for t in reversed(range(steps - 1)):
                    following = values[t + 1]
                    returns = rewards[t] + rules.gamma * ((1 - rules.lam) * following + rules.lam * returns)
            score = returns.reshape(plans.shape[:2])
            elites = jax.lax.top_k(score, rules.num_elites)[1]
            kept = jnp.take_along_axis(plans, elites[:, :, None, None], 1)
            mean, std = kept.mean(1), jnp.sqrt(kept.var(1) + rules.floor)
            all_values.append(score)
        return jnp.stack(all_values), mean, std

    compiled = jax.jit(plan)
    return lambda: np.asarray(jax.block_until_ready(compiled(weights, start, noise, prior))[0])
