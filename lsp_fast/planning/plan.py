"""Planning from many start states at once, over skills or over actions (SPEC sections 4 and 5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lsp_fast import ops
from lsp_fast.backends import Backend
from lsp_fast.ops.philox import plan_noise
from lsp_fast.ops.types import ImagineNoise, Normal, PlanKey, PlanNoise, PlanRules, PlanWeights, State, map_state
from lsp_fast.planning.cem import CEMResult, cem


def plan_values(
    rewards: Tensor, values: Tensor | None, discount: Tensor, lam: float, by_sum: bool, backend: Backend
) -> Tensor:
    """What imagined trajectories are worth (SPEC section 4).

    Args:
        rewards, values, discount: [H, N], at the H imagined states; without values only rewards count, by sum.
        by_sum: sum_t gamma^t r_t + gamma^H v of the last state; else the lambda-return at the first imagined state.
            (Dreamer's value of a state counts that state's own reward, so the sum counts the last one twice.)

    Returns:
        [N]
    """
    if not by_sum:
        if values is None:
            raise ValueError("a lambda-return needs values; score by the sum without them")
        return backend.lambda_return(rewards[:-1], values[:-1], discount[:-1], values[-1], lam)[0]
    weights = torch.cat([torch.ones_like(discount[:1]), discount.cumprod(0)])  # [H + 1, N]
    total = (weights[:-1] * rewards).sum(0)
    return total if values is None else total + weights[-1] * values[-1]


def bind_heads(weights: PlanWeights, precision: str, backend: Backend) -> Callable[..., Tensor]:
    """imagine_heads(start, skills, skill_length, noise) of these weights, packed once where the backend packs them.

    Only the reference knows a value that sees the skill, so it rolls out for every backend then.
    """
    if backend.pack_heads is not None and not weights.value_sees_skill:
        return backend.pack_heads(weights.prior, weights.actor, weights.heads, precision)
    function = ops.imagine_heads if weights.value_sees_skill else backend.imagine_heads

    def imagine_heads(start: State, skills: Tensor, skill_length: int, noise: ImagineNoise) -> Tensor:
        return function(start, weights.prior, weights.actor, skills, skill_length, noise, weights.heads, precision)

    return imagine_heads


def score_plans(
    start: State,
    plans: Tensor,
    weights: PlanWeights,
    noise: ImagineNoise,
    rules: PlanRules,
    backend: Backend,
    imagine_heads: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Roll every candidate out and value it.

    Args:
        start: [N, ...]
        plans: [N, G, P, Z], of skills; or of actions where there is no actor.
        noise: of H steps for N * G rollouts, a state's candidates side by side; or for N, whose candidates share it.
        imagine_heads: of these weights, from `bind_heads`; by default for this call alone.

    Returns:
        [N, G]
    """
    imagine_heads = imagine_heads or bind_heads(weights, rules.precision, backend)
    n, g = plans.shape[:2]
    by_step = plans.flatten(0, 1).transpose(0, 1)  # [P, N * G, Z]
    starts = map_state(lambda x: x.repeat_interleave(g, 0), start)
    if noise.stoch.shape[1] != n * g:
        action = None if noise.action is None else noise.action.repeat_interleave(g, 1)
        noise = ImagineNoise(noise.stoch.repeat_interleave(g, 1), action)
    # The heads see all steps; what they say is all that is kept of a rollout.
    outputs = imagine_heads(starts, by_step, rules.skill_length, noise)  # [1 .. 3, H, N * G]
    discount = torch.full_like(outputs[0], rules.gamma) if weights.discount is None else torch.sigmoid(outputs[-1])
    values = None if weights.value is None else outputs[1]
    return plan_values(outputs[0], values, discount, rules.lam, rules.by_sum, backend).view(n, g)


@torch.no_grad()
def plan(
    start: State,
    weights: PlanWeights,
    noise: PlanNoise | PlanKey,
    prior: Normal,
    rules: PlanRules,
    backend: Backend,
    imagine_heads: Callable[..., Tensor] | None = None,
) -> CEMResult:
    """CEM from every start state, without gradients.

    Args:
        start: [N, ...]
        weights: with an actor plans are skills, without one actions.
        noise: of I iterations; a key stands for the numbers that follow from it.
        prior: [N, P, Z], the distribution of the first iteration's candidates.
        imagine_heads: of these weights, from `bind_heads`; by default for this call alone.
    """
    if backend.plan is not None and not weights.value_sees_skill:
        return CEMResult(*backend.plan(start, weights, noise, prior, rules))
    if isinstance(noise, PlanKey):
        (n, length, width), stoch = prior.mean.shape, start.stoch.shape[1]
        noise = plan_noise(noise, n, stoch, weights.action_dim, length, width, backend.normals)
    numbers = noise
    imagine_heads = imagine_heads or bind_heads(weights, rules.precision, backend)

    def score(plans: Tensor, i: int) -> Tensor:
        return score_plans(start, plans, weights, numbers.rollouts(i), rules, backend, imagine_heads)

    return cem(
        score,
        prior.mean,
        prior.std,
        numbers.candidates,
        rules.num_elites,
        floor=rules.floor,
        std_min=rules.std_min,
        clip=rules.clip,
        select_elites=backend.select_elites,
    )
