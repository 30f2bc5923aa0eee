"""Where skills come from: nowhere, a standard normal, or a plan (SPEC sections 4 and 5)."""

from __future__ import annotations

import torch
from torch import Tensor

from lsp_fast.backends import Backend
from lsp_fast.config import Config
from lsp_fast.noise import Noise
from lsp_fast.ops.types import ImagineNoise, Normal, PlanNoise, PlanWeights, State, map_state
from lsp_fast.planning.cem import CEMResult, cem


def plan_values(
    rewards: Tensor, values: Tensor, discount: Tensor, lam: float, objective: str, backend: Backend
) -> Tensor:
    """What imagined trajectories are worth (SPEC section 4).

    Args:
        rewards, values, discount: [H, N], at the H imagined states.
        objective: `lambda_return`, at the first imagined state; or `sum`, sum_t gamma^t r_t + gamma^H v of the last
            state. (Dreamer's value of a state counts that state's own reward, so `sum` counts the last one twice.)

    Returns:
        [N]
    """
    if objective == "lambda_return":
        return backend.lambda_return(rewards[:-1], values[:-1], discount[:-1], values[-1], lam)[0]
    weights = torch.cat([torch.ones_like(discount[:1]), discount.cumprod(0)])  # [H + 1, N]
    return (weights[:-1] * rewards).sum(0) + weights[-1] * values[-1]


def score_plans(
    start: State, plans: Tensor, weights: PlanWeights, noise: ImagineNoise, config: Config, backend: Backend
) -> Tensor:
    """Roll every candidate out and value it.

    Args:
        start: [N, ...]
        plans: [N, G, P, Z]
        noise: of H steps for N * G rollouts, a state's candidates side by side; or for N, whose candidates share it.

    Returns:
        [N, G]
    """
    n, g = plans.shape[:2]
    skills = plans.flatten(0, 1).transpose(0, 1)  # [P, N * G, Z]
    starts = map_state(lambda x: x.repeat_interleave(g, 0), start)
    if noise.stoch.shape[1] != n * g:
        shared = (None if x is None else x.repeat_interleave(g, 1) for x in noise)
        noise = ImagineNoise(*shared)
    # The heads see all steps; what they say is all that is kept of a rollout.
    outputs = backend.imagine_heads(
        starts, weights.prior, weights.actor, skills, config.skill.length, noise, weights.heads
    )  # [2 or 3, H, N * G]
    gamma = config.behavior.gamma
    discount = torch.full_like(outputs[0], gamma) if weights.discount is None else torch.sigmoid(outputs[2])
    value = plan_values(outputs[0], outputs[1], discount, config.behavior.lam, config.planner.objective, backend)
    return value.view(n, g)


def draw_plan_noise(noise: Noise, stream: str, config: Config, states: int, dims: tuple[int, int], sample: bool):
    """Noise of one whole plan from `states` start states; dims are the stochastic and the action dimension."""
    p, h, n = config.planner, config.behavior.horizon, states
    rollouts = n if p.shared_noise else n * p.candidates
    return PlanNoise(
        noise.normal(
            f"{stream}/candidates", p.iterations, n, p.candidates, config.skills_per_rollout, config.skill.dim
        ),
        noise.normal(f"{stream}/plan_latent", p.iterations, h, rollouts, dims[0]),
        noise.normal(f"{stream}/plan_action", p.iterations, h, rollouts, dims[1]) if sample else None,
    )


@torch.no_grad()
def plan_skills(start: State, weights: PlanWeights, noise: PlanNoise, config: Config, backend: Backend) -> CEMResult:
    """CEM over skills from every start state, from N(0, I) [O], without gradients.

    Args:
        start: [N, ...]
        noise: as `draw_plan_noise` gives it.
    """

    def score(plans: Tensor, i: int) -> Tensor:
        rollout_noise = ImagineNoise(noise.stoch[i], None if noise.action is None else noise.action[i])
        return score_plans(start, plans, weights, rollout_noise, config, backend)

    prior, p = standard_normal(start, config), config.planner
    if backend.plan is not None:
        b, by_sum = config.behavior, p.objective == "sum"
        length = config.skill.length
        return CEMResult(
            *backend.plan(start, weights, noise, prior, p.elites, length, b.gamma, b.lam, by_sum, p.std_floor)
        )
    return cem(
        score,
        prior.mean,
        prior.std,
        noise.candidates,
        p.elites,
        floor=p.std_floor,
        select_elites=backend.select_elites,
    )


def standard_normal(start: State, config: Config) -> Normal:
    """N(0, I) over plans: mean and std, [N, P, Z]."""
    mean = start.stoch.new_zeros(start.stoch.shape[0], config.skills_per_rollout, config.skill.dim)
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
) -> Normal:
    """The distribution that skills are drawn from in each start state (SPEC sections 4 and 5).

    Args:
        start: [N, ...]
        stream: prefix of the noise's names, the purpose of the plan.
        explore: in imagination and while collecting: plans are scored with sampled actions, and epsilon is added to the
            planned mean. In evaluation neither.

    Returns:
        mean and std, [N, P, Z]; of N(0, I) for random skills.
    """
    if config.skill.source == "random":
        return standard_normal(start, config)
    dims = (start.stoch.shape[-1], weights.prior.inp.weight.shape[1] - start.stoch.shape[-1])
    drawn = draw_plan_noise(noise, stream, config, len(start.stoch), dims, sample=explore)
    result = plan_skills(start, weights, drawn, config, backend)
    if not explore:
        return Normal(result.mean, result.std)
    s = config.skill
    epsilon_std = s.noise if s.noise_kind == "std" else s.noise**0.5
    epsilon = epsilon_std * noise.normal(f"{stream}/epsilon", *result.mean.shape)
    return Normal(result.mean + epsilon, result.std)
