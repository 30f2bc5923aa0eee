"""Does planning prefer something, or does it follow the noise of its own rollouts?"""

from __future__ import annotations

import torch
from torch import Tensor

from lsp_fast.noise import Noise
from lsp_fast.ops.philox import plan_noise
from lsp_fast.ops.types import ImagineNoise, PlanKey, PlanNoise, State
from lsp_fast.planning.plan import score_plans
from lsp_fast.planning.planner import Planner


def rollout_noise(planner: Planner, noise: Noise, stream: str, start: State) -> ImagineNoise:
    """What the planner draws for the rollouts of one plan's first candidates, in training."""
    return numbers(planner, planner.draw(noise, stream, len(start.stoch), sample=True), start).rollouts(0)


def numbers(planner: Planner, drawn: PlanNoise | PlanKey, start: State) -> PlanNoise:
    """A plan's noise itself, where `drawn` is only a key."""
    if not isinstance(drawn, PlanKey):
        return drawn
    shape = start.stoch.shape[-1], planner.action_dim, *planner.config.plan_shape(planner.action_dim)
    return plan_noise(drawn, len(start.stoch), *shape, normals=planner.backend.normals)


@torch.no_grad()
def planner_health(planner: Planner, start: State, noise: Noise) -> dict[str, Tensor]:
    """Score one population twice with fresh rollout noise and compare; and plan once, to see what that gains.

    Args:
        start: [N, ...], states to look at.

    Returns:
        elite_overlap: share of the M elites that both draws agree on; chance is M / G.
        value_spread: standard deviation over candidates of their mean value, averaged over states.
        rollout_noise: standard deviation of one candidate's value over noise, likewise.
        random_plan_value: mean value of the population, that is of skills from N(0, I).
        plan_value: mean value of the plans' means, scored in the same way: by the second draw's rollout noise, which
            no plan has seen.
    """
    p, backend = planner.config.planner, planner.backend
    n, g, m = len(start.stoch), p.candidates, p.elites
    weights, prior = planner.weights(), planner.prior(start)
    values, elites, draws, plans = [], [], [], None
    for _ in range(2):
        drawn = numbers(planner, planner.draw(noise, "health", n, sample=True), start)
        if plans is None:
            plans = prior.mean[:, None] + prior.std[:, None] * drawn.candidates[0]
        value = score_plans(start, plans, weights, drawn.rollouts(0), planner.rules, backend, planner.imagine_heads())
        values.append(value)
        draws.append(drawn)
        elites.append(backend.select_elites(value, plans, m, *prior, p.std_floor)[2])
    # Planned with the noise of the first draw, valued with that of the second: elites are chosen for luck, too. Nothing
    # is drawn for it.
    planned = planner.search(start, draws[0], prior).mean[:, None].expand(-1, g, -1, -1)
    plan_value = score_plans(start, planned, weights, draws[1].rollouts(0), planner.rules, backend)
    chosen = [torch.zeros_like(values[0]).scatter_add_(1, e.clamp(min=0), (e >= 0).float()) for e in elites]  # [N, G]
    a, b = values
    # Half the squared difference of two draws estimates the noise's variance; it also inflates the spread of the mean.
    noise_var = ((a - b) ** 2 / 2).mean(1)
    spread_var = (((a + b) / 2).var(1, correction=0) - noise_var / 2 * (g - 1) / g).clamp(min=0)
    return {
        "elite_overlap": (chosen[0] * chosen[1]).sum(1).mean() / m,
        "value_spread": spread_var.sqrt().mean(),
        "rollout_noise": noise_var.sqrt().mean(),
        "random_plan_value": ((a + b) / 2).mean(),
        "plan_value": plan_value.mean(),
    }
