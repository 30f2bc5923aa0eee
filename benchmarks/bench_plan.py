"""A whole plan (CEM over skills): fused in C++ beside eager PyTorch, learning and acting."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from measure import Work

from lsp_fast import backends
from lsp_fast.agents import ImaginationAgent
from lsp_fast.config import make_config
from lsp_fast.noise import Noise
from lsp_fast.ops.types import State
from lsp_fast.planning.skills import draw_plan_noise, plan_skills

DIMS = 78, 12
"""Observation and action of the quadruped."""


def works() -> Iterator[Work]:
    """Plans from 32 start states (learning, with sampled actions) and from one (acting in evaluation)."""
    for preset, starts in (("cpu", 32), ("cpu", 1), ("paper", 32), ("paper", 1)):
        yield plans(preset, starts)


def plans(preset: str, starts: int) -> Work:
    """The noise is drawn beforehand."""
    c = make_config(preset, device="cpu", backend="reference")
    agent = ImaginationAgent(*DIMS, c)
    start = State(torch.randn(starts, c.model.stoch), torch.randn(starts, c.model.deter).tanh())
    noise = draw_plan_noise(Noise(0), "plan", c, starts, (c.model.stoch, DIMS[1]), sample=starts > 1)
    problem = (start, agent.plan_weights(), noise, c)
    cpp = backends.get("cpp")
    eager, fused = plan_skills(*problem, backends.REFERENCE), plan_skills(*problem, cpp)
    torch.testing.assert_close(fused.values[0], eager.values[0], rtol=1e-3, atol=1e-3)  # later ones follow the elites
    p, h = c.planner, c.behavior.horizon
    return Work(
        f"plan, {preset} preset, {starts} x {p.candidates} x {h} x {p.iterations}",
        "eager",
        {"eager": lambda: plan_skills(*problem, backends.REFERENCE), "cpp": lambda: plan_skills(*problem, cpp)},
    )
