"""The ways that work is run: eager, compiled, as a CUDA graph, in JAX; and how each is made."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from peers.problem import Problem
from torch import Tensor
from torch.utils._pytree import tree_map_only

from gpu.checks import CheckError
from gpu.work import WORKS, Act, Plan, Work
from lsp_fast.agents.imagination import ImaginationAgent
from lsp_fast.backends.cudagraph import capture
from lsp_fast.config import replace
from lsp_fast.noise import Noise
from lsp_fast.ops.types import State
from lsp_fast.planning.planner import Planner

# What torch.set_float32_matmul_precision calls a row's precision; with bf16 plans learning multiplies tf32.
MATMUL = {"fp32": "highest", "tf32": "high", "bf16": "high"}


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


def variants_of(work: Work, precision: str, chosen: Collection[str]) -> list[Variant]:
    """Eager, and of the chosen names those that this work has."""
    names = [name for name in VARIANTS if name == "eager" or name in chosen]
    names = [name for name in names if work.name in ONLY.get(name, WORKS)]
    if work.name == "act":
        names.insert(1, "policy")
    return [Variant(work.name, name, precision) for name in names]


def make_agent(work: Work, name: str, precision: str) -> ImaginationAgent:
    """A fresh agent, the same for every variant but for its backend and precision."""
    backend = VARIANTS[name].backend if name in VARIANTS else "auto"
    overrides = {
        "backend": "reference" if work.device.type == "cpu" else backend,
        "planner.precision": "bf16" if precision == "bf16" else "fp32",
        # As in the float64 agent that it is compared with.
        "planner.noise": "tensors",
        "train.matmul": "fp32" if precision == "fp32" else "tf32",
        # What is timed is captured here; `policy` is the agent's own way.
        "train.cuda_graph": name == "policy",
    }
    return ImaginationAgent(*work.dims, replace(work.config, overrides))


def build(work: Work, name: str, agent: ImaginationAgent) -> Callable[..., Any]:
    """The variant of that name: `work.function`, or for `policy` and `JAX` what a sample repeats."""
    if name == "policy":
        assert isinstance(work, Act)
        return work.policy(agent)
    if name == "JAX":
        return jax_plan(work, agent)
    if name == "graph, one kernel":
        from lsp_fast.backends import triton

        if agent.backend.name != "triton":
            raise CheckError("not run: there are no Triton kernels here")
        substitute(agent, pack_heads=functools.partial(triton.pack_heads, whole_rollout=True))
    function, way = work.function(agent), VARIANTS[name]
    if name == "eager":
        return function
    # A stream's generator is made from its name, which a compiler cannot follow: one eager call makes them all.
    work.timed(function)(0)
    torch._dynamo.config.recompile_limit = 64  # beyond its limit, compiled code silently runs eagerly
    if name == "compile parts":
        agent.model_loss = torch.compile(agent.model_loss, dynamic=False)
        compiled = {
            k: torch.compile(getattr(agent.backend, k), dynamic=False)
            for k in ("imagine", "lambda_return", "select_elites")
        }
        substitute(agent, **compiled)
        return function
    if way.mode is not None:
        return torch.compile(function, mode=None if way.mode == "default" else way.mode, dynamic=False)
    return capture(function, *(x.to(work.device) for x in work.inputs[0]), generators=agent.noise.generators)


def substitute(agent: ImaginationAgent, **functions: Callable[..., Any]) -> None:
    """Other implementations of some operations, for learning and planning alike."""
    agent.backend = agent.planner.backend = agent.learner = agent.backend._replace(**functions)


def jax_problem(work: Work, agent: ImaginationAgent) -> Problem:
    """The plan of the first inputs, its noise drawn beforehand, on the processor."""
    stoch, deter = work.inputs[0] if isinstance(work, Plan) else work.inputs[0][1:3]
    start, planner = State(stoch, deter), agent.planner
    drawn = planner.draw(Noise(5, agent.device), "jax", len(stoch), sample=True)
    p = Problem(start, agent.plan_weights(), drawn, planner.prior(start), planner.rules)
    return tree_map_only(Tensor, lambda x: x.detach().cpu(), p)


def jax_plan(work: Work, agent: ImaginationAgent) -> Callable[[int], Any]:
    """The plan alone in JAX, its noise given: the first iteration's values of the first inputs at every call."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import jax
    except ImportError as error:
        raise CheckError(f"not run: {error}") from error
    if work.device.type == "cuda" and jax.default_backend() != "gpu":
        raise CheckError(f"not run: JAX {jax.__version__} sees no GPU")
    from peers import jax_plan as peer

    c = agent.config
    run = peer.build(jax_problem(work, agent), "bf16" if c.planner.precision == "bf16" else c.train.matmul)
    return lambda i: run()[0]


def jax_expected(work: Work, agent: ImaginationAgent) -> Tensor:
    """What it should be."""
    p = tree_map_only(Tensor, lambda x: x.to(work.device), jax_problem(work, agent))
    return Planner(agent.config, lambda: p.weights, agent.backend).search(p.start, p.noise).values[0]
