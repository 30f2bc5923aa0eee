"""A training update by torch.compile: our own `train.compile`, and a plan whose every iteration is one graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lsp_fast.agents import ImaginationAgent
from lsp_fast.backends import REFERENCE
from lsp_fast.learning.compiled import compiled
from lsp_fast.ops.imagine_heads import as_bf16
from lsp_fast.ops.types import ImagineNoise, Normal, PlanNoise, State
from lsp_fast.planning.cem import CEMResult, cem
from lsp_fast.planning.plan import score_plans
from peers.update_problem import agent_of, compare, expected, function_of_part


def build(preset: str, starts: int, part: str = "update", precision: str = "fp32") -> Callable[[], Any]:
    """A function of no arguments that makes that part of an update.

    Args:
        precision: `bf16` rounds all that a plan is made of; learning is in fp32. Its behaviour is then another one,
            which is not compared here; `bench_plan` looks at plans in bf16.

    Raises:
        AssertionError: losses of its first two updates, or the steps taken, are not the reference's.
    """
    agent = agent_of(preset, starts, backend="reference", train__compile=True, train__observe="scan")
    compile_plans(agent, precision)
    function = function_of_part(agent, part, starts)
    compared = "world_model" if precision == "bf16" else part
    compare(agent, function, compared, expected(preset, starts, compared))
    return function


def compile_plans(agent: ImaginationAgent, precision: str) -> None:
    """Let the agent's planner score candidates by a compiled function. It is `compiled_plan`'s that is not tuned, which
    is the faster one, and reads the newest weights."""
    rules = agent.planner.rules

    def score(start, plans, weights, noise):
        return score_plans(start, plans, weights, noise, rules, REFERENCE)

    fast = compiled(score)

    @torch.no_grad()
    def search(start: State, noise: PlanNoise, prior: Normal | None = None) -> CEMResult:
        given = start, agent.plan_weights(), noise, prior or agent.planner.prior(start)
        start, weights, noise, prior = as_bf16(given) if precision == "bf16" else given

        def value(plans, i):
            assert noise.action is not None
            return fast(start, plans, weights, ImagineNoise(noise.stoch[i], noise.action[i]))

        found = cem(value, *prior, noise.candidates, rules.num_elites, floor=rules.floor)
        return found._replace(mean=found.mean.float(), std=found.std.float())

    agent.planner.search = search
