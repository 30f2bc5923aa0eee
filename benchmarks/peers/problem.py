"""The plan that every peer is given."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_map_only

from lsp_fast.agents import ImaginationAgent
from lsp_fast.config import make_config
from lsp_fast.noise import Noise
from lsp_fast.ops.imagine_heads import as_bf16
from lsp_fast.ops.types import Normal, PlanNoise, PlanRules, PlanWeights, State

DIMS = 78, 12
"""Observation and action of the quadruped."""
PLAIN = {
    "planner__rollouts": "sampled",
    "planner__std_min": 0.0,
    "skill__random_share": 0.0,
    "skill__beta_kind": "fixed",
    "skill__input_scale": 1.0,
    "predictor__normalise": False,
    "value__slow": 0.0,
    "value__clip_targets": False,
}
"""The paper's method, at any preset's sizes: what the `cpu` preset adds to it the peers do not know."""


class Problem(NamedTuple):
    """What a plan is made of; the same numbers in every process."""

    start: State
    weights: PlanWeights
    noise: PlanNoise
    prior: Normal
    rules: PlanRules

    @property
    def operations(self) -> float:
        """Multiplications and additions of all layers."""
        return plan_operations(self.weights, self.noise)

    def bf16(self) -> Problem:
        """With everything rounded beforehand, computed in bfloat16 throughout."""
        return Problem(*(as_bf16(x) for x in (self.start, self.weights, self.noise, self.prior)), self.rules)


def problem(preset: str, starts: int, algorithm: str = "lsp", **overrides: object) -> Problem:
    """From `starts` states with sampled actions (learning), or from one with tanh(mean) (acting in evaluation); of
    planet, which has no policy, of actions."""
    c = make_config(preset, algorithm, device="cpu", backend="reference", **{**PLAIN, **overrides})
    agent = ImaginationAgent(*DIMS, c)
    drawn = Noise(1)
    start = State(drawn.normal("s", starts, c.model.stoch), drawn.normal("h", starts, c.model.deter).tanh())
    noise = agent.planner.draw(Noise(0), "plan", starts, sample=starts > 1)
    assert isinstance(noise, PlanNoise)
    return Problem(start, detached(agent.plan_weights()), noise, agent.planner.prior(start), agent.planner.rules)


def detached(x: Any) -> Any:
    """Nested tuples of weights without their gradients."""
    return tree_map_only(torch.Tensor, torch.Tensor.detach, x)


def plan_operations(weights: PlanWeights, noise: PlanNoise) -> float:
    """Multiplications and additions of all layers in a whole plan."""

    def matrices(x) -> list[torch.Tensor]:
        if isinstance(x, torch.Tensor):
            return [x] if x.dim() == 2 else []
        return [m for y in x for m in matrices(y)] if isinstance(x, tuple) else []

    i, n, g = noise.candidates.shape[:3]
    return 2.0 * sum(m.numel() for m in matrices(weights)) * i * n * g * noise.stoch.shape[1]
