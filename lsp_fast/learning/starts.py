"""Where behaviour learning begins: in which replayed states, and with which skills (SPEC sections 4 and 8)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lsp_fast.config import Config
from lsp_fast.noise import Noise
from lsp_fast.ops.types import Normal, State, map_state
from lsp_fast.planning.planner import Planner, SkillPlan


class Starts(NamedTuple):
    """States to imagine from; the first `random` of them are not planned for."""

    state: State  # [N, ...]
    live: Tensor | None  # [N], 0 at a terminal state, 1 at others; None: all are live
    random: int = 0

    @property
    def planned(self) -> State:
        """The states that are planned for; where none is, all."""
        first = self.random if self.random < len(self.state.stoch) else 0
        return map_state(lambda x: x[first:], self.state) if first else self.state


class Rollouts(NamedTuple):
    """Where rollouts begin, and the skills that they are acted under; without skills these are None."""

    start: State  # [N, ...]
    live: Tensor | None  # [N]
    skills: Tensor | None = None  # [P, N, Z]
    policy: Normal | None = None  # [P, N, Z], what the skills were drawn from
    paid: int | None = None
    """Rollouts that r^i is paid on, the first ones; None: all."""
    plan_std: Tensor | None = None  # 0-d, mean spread of the plans; None where there are none


def choose_starts(state: State, live: Tensor | None, noise: Noise, config: Config) -> Starts:
    """Start states from all posterior ones of a batch.

    Args:
        state: [L B, ...]
        live: [L B], as in `Starts`.
    """
    total = len(state.stoch)
    count = min(config.start_states or total, total)
    random = 0 if config.skill.source != "planned" else count - config.planned_states(count)
    if count == total and not random:
        return Starts(state, live)
    # Also where all are taken: which of them are planned for is to be chance, and they lie in the order of time.
    rows = noise.choice("behavior/starts", total, total)
    if live is not None:
        # States that nothing follows come last, and are taken only where there are no others.
        rows = rows[(1 - live[rows]).argsort(stable=True)][:count]
        if random:
            rows = rows[noise.choice("behavior/random_starts", count, count)]
        live = live[rows]
    rows = rows[:count]
    return Starts(map_state(lambda x: x[rows], state), live, random)


def draw_skills(starts: Starts, planner: Planner, noise: Noise) -> Rollouts:
    """Rollouts from the start states: `skill.per_plan` from each, with skills from its plan, or from N(0, I)."""
    c, start, live = planner.config.skill, starts.state, starts.live
    if c.source == "none":
        return Rollouts(start, live)
    prior, std = planner.prior(start), None
    plan = SkillPlan(*prior, *prior)
    if starts.random < len(start.stoch):
        found = planner.distribution(starts.planned, noise, "behavior", explore=True)
        std = found.std.mean() if c.source == "planned" else None
        both = zip(plan, found, strict=True)
        plan = SkillPlan(*(torch.cat([x[: starts.random], y]) for x, y in both)) if starts.random else found
    if c.per_plan > 1:
        # Several skills of one plan are several rollouts from its state.
        start = map_state(lambda x: x.repeat_interleave(c.per_plan, 0), start)
        live = None if live is None else live.repeat_interleave(c.per_plan)
        plan = SkillPlan(*(x.repeat_interleave(c.per_plan, 0) for x in plan))
    plan = SkillPlan(*(x.transpose(0, 1) for x in plan))  # [P, N, Z]
    skills = plan.mean + plan.std * noise.normal("behavior/skills", *plan.mean.shape)
    paid = starts.random * c.per_plan if c.source == "planned" and c.random_share else None
    return Rollouts(start, live, skills, plan.policy, paid, std)
