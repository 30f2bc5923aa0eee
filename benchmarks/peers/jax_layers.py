"""The networks in JAX: SPEC sections 2 and 3 on nested tuples of arrays, matrices laid out [in, out]."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsp_fast.ops.layers import inverse_softplus

LOG_2, LOG_2PI = float(np.log(2)), float(np.log(2 * np.pi))


class Layers(NamedTuple):
    """What products multiply, and the numbers beside the weights.

    `precision`: matrix products multiply float32 (`fp32`), TF32 where the device has it (`tf32`), or bfloat16 summed
    in float32 (`bf16`).
    """

    precision: str
    min_std: float
    """Of the latent's standard deviation."""
    actor: tuple[float, float, float] | None
    """The actor's mean_scale, init_std and min_std; None where actions are planned."""

    @property
    def operand(self) -> Any:
        """The type of what is multiplied."""
        return jnp.bfloat16 if self.precision == "bf16" else jnp.float32

    def rounded(self, weights: Any) -> Any:
        """Nested tuples with every matrix in the products' type; biases stay."""
        return jax.tree.map(lambda x: x.astype(self.operand) if x.ndim == 2 else x, weights)

    def product(self, x: jax.Array, weight: jax.Array) -> jax.Array:
        # JAX's default is TF32 on recent GPUs.
        exactness = "highest" if self.precision == "fp32" else "default"
        return jnp.dot(x.astype(self.operand), weight, precision=exactness, preferred_element_type=jnp.float32)

    def dense(self, x: jax.Array, layer: Any) -> jax.Array:
        return self.product(x, layer[0]) + layer[1]

    def mlp(self, x: jax.Array, weights: Any) -> jax.Array:
        hidden, out = weights
        for layer in hidden:
            x = jax.nn.elu(self.dense(x, layer))
        return x if out is None else self.dense(x, out)

    def head(self, x: jax.Array, weights: Any) -> jax.Array:
        """[..., F] -> [...]"""
        return self.mlp(x, weights)[..., 0]

    def softplus_normal(self, raw: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, std = jnp.split(raw, 2, -1)
        return mean, jax.nn.softplus(std) + self.min_std

    def advance(self, s: jax.Array, h: jax.Array, action: jax.Array, transition: Any) -> jax.Array:
        """The deterministic part of a transition, by (inp, gru, ...)."""
        inp, (w_ih, w_hh, b_ih, b_hh), *_ = transition
        x = jax.nn.elu(self.dense(jnp.concatenate([s, action], -1), inp))
        a, b = jnp.split(self.product(x, w_ih) + b_ih, 3, -1), jnp.split(self.product(h, w_hh) + b_hh, 3, -1)
        r, u = jax.nn.sigmoid(a[0] + b[0]), jax.nn.sigmoid(a[1] + b[1])
        fresh = jnp.tanh(a[2] + r * b[2])
        return fresh + u * (h - fresh)

    def latent(self, x: jax.Array, hidden: Any, out: Any) -> tuple[jax.Array, jax.Array]:
        """Prior of h, or posterior of [h, embedding]: mean and std."""
        return self.softplus_normal(self.dense(jax.nn.elu(self.dense(x, hidden)), out))

    def policy(self, feature: jax.Array, skill: jax.Array, weights: Any) -> tuple[jax.Array, jax.Array]:
        """Mean and std before the tanh."""
        assert self.actor is not None
        scale, init_std, min_std = self.actor
        mean, raw = jnp.split(self.mlp(jnp.concatenate([feature, skill], -1), weights), 2, -1)
        return scale * jnp.tanh(mean / scale), jax.nn.softplus(raw + inverse_softplus(init_std)) + min_std


def lambda_return(rewards: Any, values: Any, gamma: float, lam: float) -> jax.Array:
    """[T, ...] of T + 1 states -> [T, ...]; the last value is the bootstrap."""
    carry, returns = values[-1], []
    for t in reversed(range(len(rewards) - 1)):
        carry = rewards[t] + gamma * ((1 - lam) * values[t + 1] + lam * carry)
        returns.append(carry)
    return jnp.stack(returns[::-1])


def normal_log_prob(x: jax.Array, mean: jax.Array, std: Any = 1.0) -> jax.Array:
    """Elementwise."""
    return -0.5 * ((x - mean) / std) ** 2 - jnp.log(std) - 0.5 * LOG_2PI


def tanh_normal_log_prob(pre_tanh: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """Elementwise, of tanh(pre_tanh)."""
    return normal_log_prob(pre_tanh, mean, std) - 2 * (LOG_2 - pre_tanh - jax.nn.softplus(-2 * pre_tanh))


def kl_divergence(p: tuple[jax.Array, jax.Array], q: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Summed over the last dimension."""
    ratio = (p[1] / q[1]) ** 2
    return 0.5 * (ratio + ((p[0] - q[0]) / q[1]) ** 2 - 1 - jnp.log(ratio)).sum(-1)


def soft_clamp_std(raw_log_std: jax.Array, low: float, high: float) -> jax.Array:
    """As `lsp_fast.ops.densities.soft_clamp_std`."""
    lo, hi = 2 * np.log(low), 2 * np.log(high)
    y = hi - jax.nn.softplus(hi - 2 * raw_log_std)
    return jnp.exp(0.5 * (lo + jax.nn.softplus(y - lo)))


def arrays(x: Any) -> Any:
    """Nested tuples of tensors as nested tuples of arrays of their own, matrices transposed; numbers stay."""
    if hasattr(x, "detach"):
        numbers = x.detach().numpy()
        return jnp.array(numbers.T if numbers.ndim == 2 else numbers)
    return tuple(arrays(y) for y in x) if isinstance(x, tuple) else x


def untransposed(x: Any) -> Any:
    """The same for states and noise, which are no matrices."""
    if hasattr(x, "detach"):
        return jnp.array(x.detach().numpy())
    return tuple(untransposed(y) for y in x) if isinstance(x, tuple) else x
