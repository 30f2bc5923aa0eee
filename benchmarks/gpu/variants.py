"""The ways that work is run: eager, compiled, as a CUDA graph, in JAX."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._pytree import tree_map

from gpu.checks import CheckError
from gpu.work import Plan, Work
from lsp_fast.agents.imagination import ImaginationAgent
from lsp_fast.noise import Noise
from lsp_fast.ops.types import Normal, PlanNoise, PlanRules, PlanWeights, State
from lsp_fast.planning.planner import Planner


@dataclass
class Variant:
    """One way to run one piece of work, and what was found out about it."""

    work: str
    name: str
    precision: str
    call: Callable[[int], Any] | None = None  # of a running number, which picks the inputs
    agent: ImaginationAgent | None = None  # whose storage a graph reads
    errors: dict[str, float] = field(default_factory=dict)
    failure: str | None = None
    peak_memory: int | None = None
    seconds: list[float] = field(default_factory=list)


class Way(NamedTuple):
    """How a variant runs the work."""

    backend: str
    mode: str | None = None
    """torch.compile's."""
    graph: bool = False


# `auto` is what training on this GPU takes: the Triton kernels, where there are any.
VARIANTS = {
    "eager": Way("reference"),
    "compile": Way("reference", "default"),
    "compile reduce-overhead": Way("reference", "reduce-overhead"),
    "compile max-autotune": Way("reference", "max-autotune"),
    "compile parts": Way("reference", "default"),
    "graph of PyTorch": Way("reference", graph=True),
    "graph": Way("auto", graph=True),
    "graph, one kernel": Way("auto", graph=True),
    "JAX": Way("reference"),
}
ONLY = {"compile parts": ("update",), "graph, one kernel": ("act",), "JAX": ("plan", "act", "planet")}


def substitute(agent: ImaginationAgent, **functions: Callable[..., Any]) -> None:
    """Other implementations of some operations, for learning and planning alike."""
    agent.backend = agent.planner.backend = agent.backend._replace(**functions)


def jax_problem(work: Work, agent: ImaginationAgent) -> Problem:
    """The plan of the first inputs, its noise drawn beforehand, on the processor."""
    stoch, deter = work.inputs[0] if isinstance(work, Plan) else work.inputs[0][1:3]
    start, planner = State(stoch, deter), agent.planner
    drawn = planner.draw(Noise(5, agent.device), "jax", len(stoch), sample=True)
    parts = tree_map(lambda x: x.detach().cpu() if isinstance(x, Tensor) else x, (
        start, agent.plan_weights(), drawn, planner.prior(start)
    ))  # fmt: skip
    return Problem(*parts, planner.rules)


class Problem(NamedTuple):
    """What peers/jax_plan.py reads."""

    start: State
    weights: PlanWeights
    noise: PlanNoise
    prior: Normal
    rules: PlanRules


def jax_plan(work: Work, agent: ImaginationAgent) -> Callable[[int], Any]:
    """The plan alone in JAX, its noise given: the first iteration's values of the first inputs at every call."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import jax
    except ImportError as error:
        raise CheckError(f"not run: {error}") from error
    if work.device.type == "cuda" and jax.default_backend() != "gpu":
        raise CheckError(f"not run: JAX {jax.__version__} sees no GPU")
    from peers.jax_plan import build

    run = build(jax_problem(work, agent), agent.config.planner.precision == "bf16")
    return lambda i: run()[0]


def jax_expected(work: Work, agent: ImaginationAgent) -> Tensor:
    """What it should be."""
    p = jax_problem(work, agent)
    p = tree_map(lambda x: x.to(work.device) if isinstance(x, Tensor) else x, p)
    return Planner(agent.config, lambda: p.weights, agent.backend).search(p.start, p.noise).values[0]


def attempt(variant: Variant, action: Callable[[], None]) -> None:
    """Run a part of a variant's measurement; whatever a compiler or a driver raises becomes the variant's row."""
    try:
        action()
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        kind = "" if isinstance(error, CheckError) else f"{type(error).__name__}: "
        variant.failure = (kind + first)[:300]
        variant.call, variant.agent, variant.seconds = None, None, []
