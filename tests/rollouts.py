"""Arguments of a rollout to test with."""

import itertools

import torch
from torch.utils._pytree import tree_map_only

from lsp_fast.backends import REFERENCE
from lsp_fast.ops.types import ActorWeights, Dense, GRUWeights, ImagineNoise, MLPWeights, PriorWeights, State
from lsp_fast.planning.planner import Planner


def build(
    rows=5,
    stoch=3,
    deter=4,
    action=2,
    skill=3,
    units=(7, 6),
    heads=2,
    steps=5,
    plan=2,
    sampled=True,
    seed=0,
    inner=None,
    actor=True,
):
    """Random arguments of `imagine_heads`, float64.

    `inner` is the width of the transition's layers, by default the units' first and last; without an actor the skills
    are actions.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    def dense(inputs, outputs):
        return Dense(normal(outputs, inputs, scale=inputs**-0.5), normal(outputs, scale=0.3))

    def mlp(inputs, outputs):
        widths = [inputs, *units]
        hidden = tuple(dense(a, b) for a, b in itertools.pairwise(widths))
        return MLPWeights(hidden, dense(widths[-1], outputs))

    inputs, hidden = (units[0], units[-1]) if inner is None else (inner, inner)
    gates = dense(inputs, 3 * deter), dense(deter, 3 * deter)
    gru = GRUWeights(gates[0].weight, gates[1].weight, gates[0].bias, gates[1].bias)
    prior = PriorWeights(dense(stoch + action, inputs), gru, dense(deter, hidden), dense(hidden, 2 * stoch), 0.1)
    policy = ActorWeights(mlp(stoch + deter + skill, 2 * action), 5.0, 1.0, 1e-4)
    noise = ImagineNoise(normal(steps, rows, stoch), normal(steps, rows, action) if sampled else None)
    skills = normal(plan, rows, skill if actor else action) if skill or not actor else None
    start = State(normal(rows, stoch), normal(rows, deter).tanh())
    return start, prior, policy if actor else None, skills, 2, noise, tuple(mlp(stoch + deter, 1) for _ in range(heads))


def to_float(x):
    """Nested tuples of tensors."""
    return tree_map_only(torch.Tensor, torch.Tensor.float, x)


def plan_skills(start, weights, noise, config, backend, prior=None):
    """One plan of these weights on that backend, with all that it found."""
    return Planner(config, lambda: weights, backend).search(start, noise, prior)


def draw_plan_noise(noise, stream, config, states, action_dim, sample):
    """Noise of one plan, without an agent."""
    planner = Planner(config, lambda: None, REFERENCE)
    planner.action_dim = action_dim
    return planner.draw(noise, stream, states, sample=sample)


def standard_normal(start, config, action_dim=2):
    """What plans begin from, without an agent."""
    planner = Planner(config, lambda: None, REFERENCE)
    planner.action_dim = action_dim
    return planner.prior(start)
