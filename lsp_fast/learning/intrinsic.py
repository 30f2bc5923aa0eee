"""The intrinsic reward r^i: what a trajectory tells about the skill that it was acted under (SPEC section 4)."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from lsp_fast.backends import REFERENCE, Backend
from lsp_fast.config import Config
from lsp_fast.models.skill_predictor import SkillPredictor
from lsp_fast.noise import Noise
from lsp_fast.ops import densities, layers, philox
from lsp_fast.ops.types import ActorWeights, PlanWeights, PriorWeights, State, features, map_state


def intrinsic_reward(log_q: Tensor, length: int, steps: int, form: str) -> Tensor:
    """Lay each segment's log q on the imagined steps (SPEC section 4).

    Args:
        log_q: [J, N], of the J complete segments of K steps.
        length: K.
        steps: T imagined states; those past the last complete segment get nothing.
        form: `spread` (log q / K on each of the segment's steps), `end` (all on its last), `every` (all on each).

    Returns:
        [T, N]
    """
    per_step = log_q.repeat_interleave(length, 0)  # [J K, N]
    if form == "spread":
        per_step = per_step / length
    elif form == "end":
        is_end = (torch.arange(len(per_step), device=log_q.device) + 1) % length == 0
        per_step = per_step * is_end[:, None]
    return torch.cat([per_step, per_step.new_zeros(steps - len(per_step), log_q.shape[1])])


@functools.cache
def shares(segments: int, length: int, steps: int, form: str) -> tuple[float, ...]:
    """What each of `steps` imagined steps gets of its segment's log q."""
    return tuple(intrinsic_reward(torch.ones(segments, 1), length, steps, form)[:, 0].tolist())


def segment_noise(
    predictor: SkillPredictor, batch: int, config: Config, noise: Noise, stream: str, backend: Backend = REFERENCE
) -> Tensor:
    """Numbers on the predictor's input for each of the J complete segments of N rollouts, [J, ...]. They are many, so
    that they come from a key where a plan's do."""
    segments, shape = config.behavior.horizon // config.skill.length, predictor.noise_shape(batch)
    if backend.draws_by_key(config.planner.noise):
        rows = segments * math.prod(shape[:-1])
        return philox.table(noise.words(f"{stream}_key", 2), rows, shape[-1], backend.normals).view(segments, *shape)
    drawn = [noise.normal(stream, *shape) for _ in range(segments)]
    return drawn[0][None] if segments == 1 else torch.stack(drawn)


def segment_log_probs(
    predictor: SkillPredictor,
    feature: Tensor,
    first: Tensor,
    skills: Tensor,
    noise: Tensor,
    backend: Backend = REFERENCE,
) -> Tensor:
    """log q of every complete segment: features [T, N, F], first [N, F], skills [P, N, Z], noise [J, ...] ->
    [J, N]."""
    k = predictor.length
    log_probs = []
    for j, drawn in enumerate(noise):
        before = first if j == 0 else feature[j * k - 1]
        log_probs.append(predictor.log_prob(feature[j * k : (j + 1) * k], before, skills[j], drawn, backend))
    return torch.stack(log_probs)


def composed_information(
    before: State, after: Tensor, skills: Tensor, actor: ActorWeights, prior: PriorWeights
) -> Tensor:
    """What a transition tells about its skill, from the policy and the world model alone (SPEC section 4, compose):

        r^i = log p(s' | s, a(z)) - log mean_j p(s' | s, a(z_j)),   a(z) = tanh(mean) of actor([s, h, z])

    Args:
        before: [M, ...], the states in which the skills act. Gradients do not flow from the actor's input into it [D].
        after: [M, S], the stochastic part s' of the states that follow.
        skills: [J, M, Z], the own one first.

    Returns:
        [M], at most log J, which is reached where no other skill explains s'; 0 where the policy ignores its skill.
    """
    count, rows, _ = skills.shape
    every = map_state(lambda x: x.repeat(count, 1), before)  # [J M, ...]
    # The own action is the skill's too, not the one that was realised: only skills are to set the scores apart.
    action = layers.act(layers.actor(features(every).detach(), skills.flatten(0, 1), actor), None)
    reached = layers.prior(layers.advance(every, action, prior), prior)
    score = densities.normal_log_prob(after.repeat(count, 1), *reached).sum(-1).view(count, rows)
    # x_0 - log mean exp x, as a log-softmax: it never exceeds 0, so that rounding cannot lift r^i above log J.
    return torch.log_softmax(score, 0)[0] + math.log(count)


def step_information(start: State, states: State, held: Tensor, weights: PlanWeights, others: Tensor) -> Tensor:
    """`composed_information` of every imagined step, each compared with skills of its own.

    Args:
        start: [N, ...]
        states: [T, N, ...], the imagined ones.
        held: [T, N, Z], the skills that acted in the states before them.
        others: [J - 1, T, N, Z] from N(0, I).

    Returns:
        [T, N]
    """
    assert weights.actor is not None
    before = State(*(torch.cat([x[None], y[:-1]]).flatten(0, 1) for x, y in zip(start, states, strict=True)))
    skills = torch.cat([held[None], others]).flatten(1, 2)  # [J, T N, Z]
    information = composed_information(before, states.stoch.flatten(0, 1), skills, weights.actor, weights.prior)
    return information.view(held.shape[:2])
