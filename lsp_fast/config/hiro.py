"""Choices of HIRO alone; `values` has the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class HiroConfig:
    """HIRO (SPEC section 5): TD3 on two levels, without a world model. A goal is held `skill.length` agent steps."""

    goals: Literal["none", "states", "skills"] = "none"
    """What the high level proposes: changes of the observed positions and velocities, or skills of `skill.dim` numbers,
    for which the low level earns the task's reward and `skill.beta` times what the backward predictor tells of them
    [P]. With none there is no HIRO."""
    units: int = 300
    layers: int = 2
    actor_learning_rate: float = 1e-4
    critic_learning_rate: float = 1e-3
    tau: float = 0.005
    """Share of the way that the slow copies go at every step of the actor."""
    delay: int = 2
    """Steps of the critics per step of the actor."""
    smoothing: float = 0.2
    """Standard deviation of the noise on the target's action; it and its bound are in units of the action's range."""
    smoothing_clip: float = 0.5
    candidates: int = 10
    """Goals that relabelling chooses among: draws around what was reached, that itself, and the goal that was set."""
    candidate_std: float = 0.5
    """Of the draws, in half-ranges of goals."""
    reward_scale: float = 0.1
    """The high level's reward per summed reward of the task."""
    goal_noise: float = 0.1
    """Standard deviation of the noise on goals while collecting, in half-ranges [O]."""
    goal_range: float = 2.0
    """Half-range of goals: so many standard deviations of how far the prefill gets in a goal's time [O]."""
    skill_range: float = 2.0
    """Half-range of skills [O]."""
