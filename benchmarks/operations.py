"""What a training update multiplies and adds, counted from its configuration's sizes."""

from __future__ import annotations

import itertools

from lsp_fast.config import Config
from lsp_fast.models.skill_predictor import segment_states

Layer = tuple[int, int]
"""Inputs and outputs."""


def update_operations(config: Config, observation: int, action: int) -> dict[str, float]:
    """Multiplications and additions of the matrix products in one update of `lsp`, whole and in parts.

    Counted are Linear layers and the GRU, two operations for each weight and row: forward; the gradient to the weights
    of what is trained; the gradient to those inputs that depend on what is trained. All steps of a sequence or rollout
    count alike, the first one, too. What is done elementwise does not count.

    It is what has to be done. Whoever does the same product twice does not come nearer to the peak by it: the value is
    evaluated once for the actor's loss and its own, with one gradient through its layers.

    Returns:
        `world_model`, `plan` and `behavior`, and their sum `update`.
    """
    c, m = config, config.model
    s, d, f, z = m.stoch, m.deter, m.stoch + m.deter, c.skill.dim
    encoder = mlp(observation, m.encoder_units, m.encoder_layers)
    decoder = mlp(f, m.decoder_units, m.decoder_layers, 2 * observation)
    reward = mlp(f, m.reward_units, m.reward_layers, 1)
    value = mlp(f, c.value.units, c.value.layers, 1)
    actor = mlp(f + z, c.actor.units, c.actor.layers, 2 * action)
    prior_in, gru = [(s + action, m.hidden)], [(m.hidden, 3 * d), (d, 3 * d)]
    prior, posterior = [(d, m.hidden), (m.hidden, 2 * s)], [(d + m.encoder_units, m.hidden), (m.hidden, 2 * s)]
    seen = len(segment_states(c.skill.length)) * f
    predictor = mlp(seen + f, c.predictor.units, c.predictor.layers, 2 * z)

    world_model = (
        learning(encoder, gradient=0)
        + learning(prior_in, gradient=s)
        + sum(learning([part], gradient=part[0]) for part in gru)
        + learning(posterior, gradient=d + m.encoder_units)
        + learning(prior, gradient=d)
        + learning(decoder, gradient=f)
        + learning(reward, gradient=f)
    )
    behavior = (
        learning(actor, gradient=0)  # none from its input into the state
        + learning(prior_in, gradient=s + action, trained=False)
        + sum(learning([part], gradient=part[0], trained=False) for part in gru)
        + learning(prior, gradient=d, trained=False)
        + learning(reward, gradient=f, trained=False)
        + learning(value, gradient=f)
    )
    # For the actor, not to the segment's first state; and for itself, with other noise.
    information = learning(predictor, gradient=seen, trained=False) + learning(predictor, gradient=0)
    planned = sum(weights(part) for part in (prior_in, gru, prior, actor, reward, value))

    rows = c.train.batch_size * c.train.batch_length
    starts = min(c.start_states or rows, rows)
    rollouts, segments = starts * (c.skill.per_plan if c.skill_dim else 1), c.behavior.horizon // c.skill.length
    parts = {
        "world_model": 2.0 * rows * world_model,
        "plan": 2.0
        * c.planner.iterations
        * c.planned_states(starts)
        * c.planner.candidates
        * c.behavior.horizon
        * planned,
        "behavior": 2.0 * rollouts * (c.imagined_steps * behavior + segments * information),
    }
    return {**parts, "update": sum(parts.values())}


def mlp(inputs: int, units: int, layers: int, outputs: int = 0) -> list[Layer]:
    """Its layers; without outputs it ends with the last hidden one."""
    widths = [inputs, *[units] * layers, *([outputs] if outputs else [])]
    return list(itertools.pairwise(widths))


def weights(layers: list[Layer]) -> int:
    """Numbers in their matrices: what one row is multiplied with."""
    return sum(a * b for a, b in layers)


def learning(layers: list[Layer], *, gradient: int, trained: bool = True) -> int:
    """Numbers that one row is multiplied with, forward and backward through layers one after the other.

    Args:
        gradient: inputs of the first layer that a gradient is taken to.
        trained: whether one is taken to the weights.
    """
    (_, units), *others = layers
    return weights(layers) * (2 if trained else 1) + gradient * units + weights(others)
