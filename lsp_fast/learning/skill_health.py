"""Do skills matter? Three numbers that are 0 where they do not (SPEC section 8)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lsp_fast.config import replace
from lsp_fast.models.skill_predictor import SkillPredictor
from lsp_fast.noise import Noise
from lsp_fast.ops import layers
from lsp_fast.ops.types import ActorWeights, ImagineNoise, State, features, map_state
from lsp_fast.planning.health import rollout_noise
from lsp_fast.planning.plan import score_plans
from lsp_fast.planning.planner import Planner

STATES = 64
SKILLS = 16
ROLLOUTS = 8
"""Sampled rollouts that a skill's value is the mean of, and samples of the policy."""


@torch.no_grad()
def skill_health(planner: Planner, start: State, predictor: SkillPredictor | None, noise: Noise) -> dict[str, Tensor]:
    """Compare 16 skills from N(0, I), the same ones in every state; where a plan holds several skills, 16 such plans.

    Args:
        planner: its configuration says which numbers there are; none without skills.
        start: [N, ...], replayed states. Of more than 64 as many are taken, evenly spaced: the first ones of all
            sequences are their first states, which have no past.
        predictor: the backward predictor, where there is one.
        noise: nothing else draws on the streams used here.

    Returns:
        planner/gain, planner/gain_error: as `planning_gain` gives them; where skills are planned.
        skill/information: nats, as `segment_information` gives it; where there is a predictor.
        skill/action_spread: as `action_spread` gives it.
    """
    c = planner.config
    if c.skill.source == "none":
        return {}
    actor = planner.weights().actor
    assert actor is not None
    # Under autocast states are bf16.
    start = map_state(lambda x: x[:: max(len(x) // STATES, 1)][:STATES].contiguous().float(), start)
    plans = noise.normal("skill_health/plans", SKILLS, *c.plan_shape(planner.action_dim))  # [G, P, Z]
    skills = plans[:, 0]  # [G, Z]
    sampled = noise.normal("skill_health/policy", ROLLOUTS, SKILLS, len(start.stoch), planner.action_dim)
    found = {"skill/action_spread": action_spread(start, skills, actor, sampled)}
    if predictor is not None:
        found["skill/information"] = segment_information(planner, start, skills, predictor, noise)
    if c.skill.source == "planned":
        own, fresh = plan_scores(planner, start, plans, noise)
        found["planner/gain"], found["planner/gain_error"] = planning_gain(own, fresh)
    return found


def planning_gain(own: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
    """What it gains to choose a skill in each state, over the one skill that the same scores choose for all states:

        mean_s (B[s, argmax_g A[s, g]] - B[s, g*]),   g* = argmax_g mean_s A[s, g]

    A chooses and B judges, so that nobody is paid for luck.

    Args:
        own: A [N, G], the planner's own scores.
        fresh: B [N, G], from other rollouts.

    Returns:
        the gain and its standard error over states, in % of mean |B|.
    """
    best = own.mean(0).argmax()  # []
    chosen = fresh.gather(1, own.argmax(1, keepdim=True))[:, 0]  # [N]
    gain = chosen - fresh.index_select(1, best.view(1))[:, 0]  # [N]
    percent = 100 / fresh.abs().mean().clamp(min=1e-12)
    return percent * gain.mean(), percent * gain.std() / math.sqrt(len(gain))


def plan_scores(planner: Planner, start: State, plans: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """What plans are worth: by the planner's own score, and as the mean of 8 independent sampled rollouts.

    Args:
        start: [N, ...]
        plans: [G, P, Z], common to all states.

    Returns:
        A and B, [N, G] each.
    """
    (n, stoch), g, c = start.stoch.shape, len(plans), planner.config
    heads = planner.imagine_heads()

    def scored(start: State, numbers: ImagineNoise) -> Tensor:
        candidates = plans.expand(len(start.stoch), -1, -1, -1)  # [N, G, P, Z]
        return score_plans(start, candidates, planner.weights(), numbers, planner.rules, planner.backend, heads)

    # What it draws for one iteration of G candidates, whatever it shares or leaves out.
    one = {"planner.candidates": g, "planner.elites": 1, "planner.iterations": 1}
    single = Planner(replace(c, one), planner.weights, planner.backend)
    own = scored(start, rollout_noise(single, noise, "skill_health/own", start))
    rows = ROLLOUTS * n * g
    fresh = ImagineNoise(
        noise.normal("skill_health/latent", c.behavior.horizon, rows, stoch),
        noise.normal("skill_health/action", c.behavior.horizon, rows, planner.action_dim),
    )
    again = map_state(lambda x: x.repeat(ROLLOUTS, 1), start)  # [8 N, ...]
    return own, scored(again, fresh).view(ROLLOUTS, n, g).mean(0)


def segment_information(
    planner: Planner, start: State, skills: Tensor, predictor: SkillPredictor, noise: Noise
) -> Tensor:
    """What a segment tells of the skill that acted in it, in nats, by the backward predictor q:

        log q(z_0 | segment) - log mean_j q(z_j | segment),   z_0, the one that acts, among the G

    0 where q ignores the segment; at most log G. Below 0 q is misled: it was trained on other skills, as those of a
    planner that chooses narrowly. Each skill acts in its share of the states.

    Args:
        start: [N, ...]
        skills: [G, Z] from N(0, I).

    Returns:
        [], the mean over states.
    """
    (n, stoch), k, weights = start.stoch.shape, predictor.length, planner.weights()
    drawn = ImagineNoise(
        noise.normal("skill_health/segment_latent", k, n, stoch),
        noise.normal("skill_health/segment_action", k, n, planner.action_dim),
    )
    # In state n acts skill n % G; it is compared with those after it.
    turns = -(-n // len(skills))
    compared = [skills.roll(-g, 0).repeat(turns, 1)[:n] for g in range(len(skills))]  # G of [N, Z]
    assert weights.actor is not None
    rollout = planner.backend.imagine(start, weights.prior, weights.actor, compared[0][None], k, drawn)
    segment, first = features(rollout.states), features(start)
    blurred = noise.normal("skill_health/predictor", *predictor.noise_shape(n))
    log_q = [predictor.log_prob(segment, first, z, blurred, planner.backend) for z in compared]
    return own_information(torch.stack(log_q)).mean()


def own_information(log_q: Tensor) -> Tensor:
    """log q of the first skill less log of the mean q over all of them: [G, N] -> [N], at most log G."""
    return torch.log_softmax(log_q, 0)[0] + math.log(len(log_q))


def action_spread(start: State, skills: Tensor, actor: ActorWeights, noise: Tensor) -> Tensor:
    """How far skills move the action, over how far the policy's own noise does: 0 where the policy is blind to them.

    Standard deviation over skills of tanh(mean), and over samples of tanh(mean + std * noise), both in units of the
    action, each a mean over states and dimensions. The second is a root mean square over skills.

    Args:
        start: [N, ...]
        skills: [G, Z] from N(0, I).
        noise: [R, G, N, A].

    Returns:
        []
    """
    seen = features(start).expand(len(skills), -1, -1)  # [G, N, F]
    policy = layers.actor(seen, skills[:, None].expand(-1, seen.shape[1], -1), actor)  # [G, N, A]
    between = layers.act(policy, None).std(0)  # [N, A]
    within = layers.act(policy, noise).var(0).mean(0).sqrt()  # [N, A]
    return between.mean() / within.mean()
