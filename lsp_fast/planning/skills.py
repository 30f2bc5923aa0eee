"""Where skills (or planned actions) come from: nowhere, a standard normal, or a plan (SPEC sections 4 and 5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lsp_fast.backends import Backend
from lsp_fast.config import Config
from lsp_fast.noise import Noise
from lsp_fast.ops.types import Normal, PlanKey, PlanNoise, PlanRules, PlanWeights, State
from lsp_fast.planning.cem import CEMResult
from lsp_fast.planning.plan import plan

Planner = Callable[[State, "PlanNoise | PlanKey", Normal], Normal]


def draw_plan_noise(
    noise: Noise, stream: str, config: Config, states: int, dims: tuple[int, int], sample: bool
) -> PlanNoise | PlanKey:
    """Noise of one whole plan from `states` start states; dims are the stochastic and the action dimension."""
    p, h, n = config.planner, config.behavior.horizon, states
    sample = sample and p.over == "skills"  # planned actions are what they are
    if p.noise == "philox":
        key = noise.words(f"{stream}/plan_key", 2)
        return PlanKey(key, p.iterations, p.candidates, h, sample, p.shared_noise)
    rollouts = n if p.shared_noise else n * p.candidates
    return PlanNoise(
        noise.normal(f"{stream}/candidates", p.iterations, n, p.candidates, *config.plan_shape(dims[1])),
        noise.normal(f"{stream}/plan_latent", p.iterations, h, rollouts, dims[0]),
        noise.normal(f"{stream}/plan_action", p.iterations, h, rollouts, dims[1]) if sample else None,
    )


def plan_rules(config: Config) -> PlanRules:
    """How this configuration plans."""
    p, b = config.planner, config.behavior
    return PlanRules(
        p.elites,
        config.skill.length if p.over == "skills" else 1,
        b.gamma,
        b.lam,
        by_sum=p.objective == "sum",
        floor=p.std_floor,
        clip=None if p.over == "skills" else 1.0,
        precision=p.precision,
    )


def plan_skills(
    start: State,
    weights: PlanWeights,
    noise: PlanNoise | PlanKey,
    config: Config,
    backend: Backend,
    prior: Normal | None = None,
) -> CEMResult:
    """CEM over skills (or actions) from every start state, without gradients.

    Args:
        start: [N, ...]
        noise: as `draw_plan_noise` gives it.
        prior: mean and std [N, P, Z] to begin from; by default N(0, I) [O].
    """
    prior = prior or standard_normal(start, config, weights.action_dim)
    return plan(start, weights, noise, prior, plan_rules(config), backend)


def moved_on(last: Tensor) -> Tensor:
    """Means of the plans [N, P, Z] once their first entry has been acted on: the others, the last one twice."""
    return torch.cat([last[:, 1:], last[:, -1:]], 1)


def standard_normal(start: State, config: Config, action_dim: int) -> Normal:
    """N(0, I) over plans: mean and std, [N, P, Z]."""
    mean = start.stoch.new_zeros(start.stoch.shape[0], *config.plan_shape(action_dim))
    return Normal(mean, torch.ones_like(mean))


def skill_distribution(
    start: State,
    weights: PlanWeights,
    noise: Noise,
    stream: str,
    config: Config,
    backend: Backend,
    *,
    explore: bool,
    planner: Planner | None = None,
    prior: Normal | None = None,
) -> Normal:
    """The distribution that skills are drawn from in each start state (SPEC sections 4 and 5).

    Args:
        start: [N, ...]
        stream: prefix of the noise's names, the purpose of the plan.
        explore: in imagination and while collecting: plans are scored with sampled actions, and epsilon is added to the
            planned mean. In evaluation neither.
        planner: plans from states, noise and what to begin from; by default `plan_skills` with these weights.
        prior: mean and std that planning begins from; by default N(0, I).

    Returns:
        mean and std, [N, P, Z]; of N(0, I) for random skills.
    """
    prior = prior or standard_normal(start, config, weights.action_dim)
    if config.skill.source == "random":
        return prior
    dims = (start.stoch.shape[-1], weights.action_dim)
    drawn = draw_plan_noise(noise, stream, config, len(start.stoch), dims, sample=explore)
    if planner is None:
        result = plan_skills(start, weights, drawn, config, backend, prior)
        found = Normal(result.mean, result.std)
    else:
        found = planner(start, drawn, prior)
    if not explore:
        return found
    s = config.skill
    epsilon_std = s.noise if s.noise_kind == "std" else s.noise**0.5
    epsilon = epsilon_std * noise.normal(f"{stream}/epsilon", *found.mean.shape)
    return Normal(found.mean + epsilon, found.std)
