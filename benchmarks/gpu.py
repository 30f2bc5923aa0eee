"""Times planning, acting and the whole update on a GPU: our kernels as CUDA graphs beside PyTorch and JAX.

    python benchmarks/gpu.py [--quick] [--out benchmarks/results/NAME.json] [--task-dims 78 12]

Checks come first: a variant whose output differs from the eager one's on the same noise, or from float64's on the
processor, is reported and not timed. benchmarks/README.md says what the rows and the JSON hold.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import gc
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what is timed is this tree, installed or not

from lsp_fast.agents.imagination import ImaginationAgent
from lsp_fast.backends.cudagraph import capture
from lsp_fast.config import Config, make_config, replace
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.noise import Noise
from lsp_fast.ops import layers
from lsp_fast.ops.types import Normal, PlanNoise, PlanRules, PlanWeights, State, features
from lsp_fast.planning.cem import CEMResult
from lsp_fast.planning.skills import draw_plan_noise, plan_rules, plan_skills, standard_normal

ROOT = Path(__file__).resolve().parents[1]
INPUT_SETS = 4  # rotated, so that no variant works on one input that stays in the cache
CHECK_STARTS = 8  # of a plan, against float64
CHECK_ACTS = 8
CHECK_UPDATES = 3
# Bounds of ||out - ref|| / ||ref||. The candidates' values may also not be further from float64 than twice eager's,
# or than what the precision's rounding makes of it by chance.
LIMIT = {"fp32": 1e-3, "tf32": 3e-2, "bf16": 1e-1}
ROUNDING = {"fp32": 1e-5, "tf32": 1e-3, "bf16": 1e-2}
# Where rounding decides between two candidates, the plans that follow differ: this share must still be the same.
SAME_ELITES = {"fp32": 0.75, "tf32": 0.0, "bf16": 0.0}
MATMUL = {"fp32": "highest", "tf32": "high", "bf16": "high"}  # with bf16 plans learning multiplies tf32


class CheckError(Exception):
    """A variant that does not compute what it should."""


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


# Comparing


def relative_error(got: Tensor, want: Tensor) -> float:
    """||got - want|| / ||want||; infinite where either holds a NaN or an infinity."""
    got, want = got.detach().double().cpu(), want.detach().double().cpu()
    if got.shape != want.shape or not (got.isfinite().all() and want.isfinite().all()):
        return math.inf
    return float((got - want).norm() / want.norm().clamp(min=1e-30)) if want.numel() else 0.0


def compare_plans(got: CEMResult, want: CEMResult, name: str) -> tuple[dict[str, float], Tensor]:
    """Errors of a plan, and which states [N] have the same elites in every iteration.

    Only the first iteration's candidates are the same for sure. Later ones follow the elites, and those are rounding's
    choice where two values are closer than twice the error; so distributions are compared where the elites agree.
    """
    got, want = (CEMResult(*(x.detach().cpu() for x in r)) for r in (got, want))
    ordered = [r.elites.sort(-1).values for r in (got, want)]  # [I, N, M]
    agree = (ordered[0] == ordered[1]).all(-1)  # [I, N]
    same = agree.all(0)
    first, m = want.values[0].double(), want.elites.shape[-1]
    ranked = first.sort(-1, descending=True).values
    gap = ranked[:, m - 1] - ranked[:, m] if m < ranked.shape[1] else torch.full_like(ranked[:, 0], math.inf)
    decided = gap > 2 * (got.values[0].double() - first).abs().max()
    errors = {
        f"{name}/values": relative_error(got.values[0], want.values[0]),
        f"{name}/mean": relative_error(got.mean[same], want.mean[same]),
        f"{name}/std": relative_error(got.std[same], want.std[same]),
        f"{name}/wrong_elites": float((~agree[0] & decided).sum()),
        f"{name}/undecided": float((~decided).double().mean()),
        f"{name}/same_elites": float(same.double().mean()),
    }
    # An error that is not a number must not hide behind rows that were left out.
    if not all(x.isfinite().all() for r in (got, want) for x in (r.mean, r.std, r.values)):
        errors[f"{name}/values"] = math.inf
    return errors, same


def judge(errors: dict[str, float], precision: str, eager: dict[str, float] | None) -> None:
    """Raise CheckError unless every error is within its bound."""
    problems = []
    for name, error in errors.items():
        kind, part = name.split("/")
        if part == "undecided":
            continue
        if part == "same_elites":
            if kind == "eager" and not error >= SAME_ELITES[precision]:
                problems.append(f"{name} {error:.3g} < {SAME_ELITES[precision]}")
            continue
        bound = 0.0 if part == "wrong_elites" else LIMIT[precision] * (10 if part == "behavior" else 1)
        if name == "float64/values" and eager is not None:
            bound = min(bound, max(2 * eager[name], ROUNDING[precision]))
        if not error <= bound:  # a NaN is not
            problems.append(f"{name} {error:.3g} > {bound:.3g}")
    if problems:
        raise CheckError("failed its check: " + ", ".join(problems))


# State of an agent


def snapshot(agent: ImaginationAgent) -> list[Tensor]:
    """Copies of the weights."""
    return [p.detach().clone() for p in agent.modules.parameters()]


@torch.no_grad()
def rewind(agent: ImaginationAgent, weights: Sequence[Tensor]) -> None:
    """Back to before the first update, every tensor in its storage, every stream of noise at its beginning."""
    for parameter, value in zip(agent.modules.parameters(), weights, strict=True):
        parameter.copy_(value)
    for optimizer in agent.optimizers.values():
        for state in optimizer.adam.state.values():
            for value in state.values():
                value.zero_()
    fresh = Noise(agent.noise.seed, agent.noise.device)
    for name in agent.noise.state_dict():
        agent.noise.generator(name).set_state(fresh.generator(name).get_state())


def in_float64(agent: ImaginationAgent, weights: Sequence[Tensor], noise: Noise) -> ImaginationAgent:
    """The same agent on the processor, which draws the same numbers, in double precision."""
    config = replace(agent.config, {"device": "cpu", "backend": "reference", "planner.precision": "fp32"})
    double = ImaginationAgent(agent.observation, agent.action_dim, config)
    double.modules.double()
    with torch.no_grad():
        for parameter, value in zip(double.modules.parameters(), weights, strict=True):
            parameter.copy_(value)
    double.noise = DoubleNoise(noise)
    return double


class DoubleNoise(Noise):
    """Another noise's numbers, in double precision on the processor."""

    def __init__(self, source: Noise) -> None:
        super().__init__(source.seed)
        self.source = source

    def normal(self, stream: str, *shape: int) -> Tensor:
        return self.source.normal(stream, *shape).double().cpu()

    def choice(self, stream: str, total: int, count: int) -> Tensor:
        return self.source.choice(stream, total, count).cpu()


def double(x: Tensor) -> Tensor:
    return x.double().cpu() if x.is_floating_point() else x.cpu()


# The three pieces of work. Each has functions of device tensors, which is what is compiled and captured.


class Work:
    """Inputs, the function that is timed, and its checks."""

    name: str

    def __init__(self, config: Config, dims: tuple[int, int], device: torch.device) -> None:
        self.config, self.dims, self.device = config, dims, device
        generator = torch.Generator().manual_seed(7)
        self.inputs = [self.draw(generator) for _ in range(INPUT_SETS)]

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def function(self, agent: ImaginationAgent) -> Callable[..., Any]:
        raise NotImplementedError

    def timed(self, function: Callable[..., Any]) -> Callable[[int], Any]:
        """What a sample repeats."""
        return lambda i: function(*self.inputs[i % INPUT_SETS])

    def outputs(self, function: Callable[..., Any], agent: ImaginationAgent, weights: list[Tensor]) -> Any:
        """What the check looks at, from the beginning of the noise, copied."""
        raise NotImplementedError

    def reference(self, agent: ImaginationAgent, weights: list[Tensor]) -> Any:
        """Float64's outputs."""
        raise NotImplementedError

    def compare(self, got: Any, want: Any, name: str) -> dict[str, float]:
        raise NotImplementedError

    def states(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Plausible latent states: the deterministic part lies in (-1, 1)."""
        m = self.config.model
        stoch = torch.randn(n, m.stoch, generator=generator)
        return stoch.to(self.device), torch.randn(n, m.deter, generator=generator).tanh().to(self.device)


def clone(result: Any) -> Any:
    """A graph's next replay overwrites what it returned."""
    if isinstance(result, Tensor):
        return result.detach().clone()
    if isinstance(result, dict):
        return {k: clone(v) for k, v in result.items()}
    return type(result)(*(clone(x) for x in result))


class Plan(Work):
    """CEM from all the start states of an update, noise included."""

    name = "plan"

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        t = self.config.train
        return self.states(self.config.behavior.plan_states or t.batch_size * t.batch_length, generator)

    def noise(self, noise: Noise, n: int) -> PlanNoise:
        return draw_plan_noise(noise, "behavior", self.config, n, (self.config.model.stoch, self.dims[1]), sample=True)

    def function(self, agent: ImaginationAgent) -> Callable[..., Any]:
        def plan(stoch: Tensor, deter: Tensor) -> CEMResult:
            drawn = self.noise(agent.noise, len(stoch))
            return plan_skills(State(stoch, deter), agent.plan_weights(), drawn, agent.config, agent.backend)

        return plan

    def outputs(self, function: Callable[..., Any], agent: ImaginationAgent, weights: list[Tensor]) -> CEMResult:
        rewind(agent, weights)
        return clone(function(*self.inputs[0]))

    def reference(self, agent: ImaginationAgent, weights: list[Tensor]) -> CEMResult:
        start, g = State(*self.inputs[0]), self.config.planner.candidates
        n = min(CHECK_STARTS, len(start.stoch))
        drawn = self.noise(Noise(agent.noise.seed, self.device), len(start.stoch))
        action = None if drawn.action is None else drawn.action[:, :, : n * g]
        few = PlanNoise(drawn.candidates[:, :n], drawn.stoch[:, :, : n * g], action)
        agent64 = in_float64(agent, weights, agent.noise)
        return plan_skills(
            State(*(double(x[:n]) for x in start)),
            agent64.plan_weights(),
            PlanNoise(*(None if x is None else double(x) for x in few)),
            self.config,
            agent64.backend,
        )

    def compare(self, got: CEMResult, want: CEMResult, name: str) -> dict[str, float]:
        n = len(want.mean)
        got = CEMResult(got.mean[:n], got.std[:n], got.values[:, :n], got.elites[:, :n])
        return compare_plans(got, want, name)[0]


class PlanActions(Plan):
    """PlaNet's way to act: CEM over the next actions from one state, at every step."""

    name = "planet"

    def __init__(self, config: Config, dims: tuple[int, int], device: torch.device) -> None:
        few = {"planner__candidates": 20, "planner__elites": 5} if config.preset == "smoke" else {}
        super().__init__(make_config(config.preset, "planet", device=config.device, **few), dims, device)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        return self.states(1, generator)


class Acted(NamedTuple):
    """One step of one environment that plans anew."""

    action: Tensor  # [1, A]
    stoch: Tensor  # [1, S]
    deter: Tensor  # [1, D]
    skill: Tensor  # [1, Z]
    plan: CEMResult


def act_and_plan(agent: ImaginationAgent, obs: Tensor, stoch: Tensor, deter: Tensor, action: Tensor) -> Acted:
    """`agent.policy` of an exploring step with t % K == 0, on device tensors alone; the check compares the two."""
    noise, c, n = agent.noise, agent.config, len(obs)
    latent = noise.normal("act/latent", n, c.model.stoch)
    state = agent.world_model.filter(State(stoch, deter), action, obs, latent)
    drawn = draw_plan_noise(noise, "act", c, n, (c.model.stoch, agent.action_dim), sample=True)
    plan = plan_skills(state, agent.plan_weights(), drawn, c, agent.backend)
    epsilon_std = c.skill.noise if c.skill.noise_kind == "std" else c.skill.noise**0.5
    mean = plan.mean + epsilon_std * noise.normal("act/epsilon", *plan.mean.shape)
    skill = mean[:, 0] + plan.std[:, 0] * noise.normal("act/skill", n, c.skill.dim)
    policy = layers.actor(features(state), skill, agent.actor.weights())
    chosen = layers.act(policy, noise.normal("act/action", n, agent.action_dim))
    extra = noise.normal("act/exploration", n, agent.action_dim)
    return Acted((chosen + c.collect.exploration_noise * extra).clamp(-1, 1), *state, skill, plan)


class Act(Work):
    """One environment, a step that plans; from the observation in host memory to the action there."""

    name = "act"

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        observation = torch.randn(1, self.dims[0], generator=generator)
        previous = torch.rand(1, self.dims[1], generator=generator) * 2 - 1
        return observation, *self.states(1, generator), previous.to(self.device)

    def function(self, agent: ImaginationAgent) -> Callable[..., Any]:
        @torch.no_grad()
        def act(obs: Tensor, stoch: Tensor, deter: Tensor, action: Tensor) -> Acted:
            return act_and_plan(agent, obs, stoch, deter, action)

        return act

    def timed(self, function: Callable[..., Any]) -> Callable[[int], Any]:
        def step(i: int) -> Tensor:
            obs, *rest = self.inputs[i % INPUT_SETS]
            return function(obs.to(self.device), *rest).action.cpu()

        return step

    def policy(self, agent: ImaginationAgent) -> Callable[[int], Any]:
        """The public way: `agent.policy` with a carry that always plans."""
        carry = agent.initial_carry(1, explore=True, noise=agent.noise)
        return lambda i: agent.policy(self.inputs[i % INPUT_SETS][0], carry)[0]

    def outputs(self, function: Callable[..., Any], agent: ImaginationAgent, weights: list[Tensor]) -> list[Acted]:
        rewind(agent, weights)
        steps = []
        for i in range(CHECK_ACTS):
            obs, *rest = self.inputs[i % INPUT_SETS]
            steps.append(clone(function(obs.to(self.device), *rest)))
        return steps

    def check_policy(self, agent: ImaginationAgent, weights: list[Tensor]) -> dict[str, float]:
        """That what is timed is what `agent.policy` does, from an episode's first step."""
        zero = agent.initial_carry(1, explore=True)
        got, want = [], []
        rewind(agent, weights)
        policy = self.policy(agent)
        for i in range(INPUT_SETS):
            want.append(torch.as_tensor(policy(i)))
        rewind(agent, weights)
        with torch.no_grad():
            for i in range(INPUT_SETS):
                obs = self.inputs[i][0].to(self.device)
                got.append(act_and_plan(agent, obs, *zero.state, zero.action).action.cpu())
        return {"policy/action": relative_error(torch.cat(got), torch.cat(want))}

    def reference(self, agent: ImaginationAgent, weights: list[Tensor]) -> list[Acted]:
        agent64 = in_float64(agent, weights, Noise(agent.noise.seed, self.device))
        sets = [self.inputs[i % INPUT_SETS] for i in range(CHECK_ACTS)]
        with torch.no_grad():
            return [act_and_plan(agent64, *(double(x) for x in inputs)) for inputs in sets]

    def compare(self, got: list[Acted], want: list[Acted], name: str) -> dict[str, float]:
        plans = []
        for steps in (got, want):
            each = [step.plan for step in steps]
            rows = [
                torch.cat([getattr(p, k) for p in each], dim)
                for k, dim in zip(CEMResult._fields, (0, 0, 1, 1), strict=True)
            ]
            plans.append(CEMResult(*rows))
        errors, same = compare_plans(plans[0], plans[1], name)
        for key in ("stoch", "deter", "skill", "action"):
            a, b = (torch.cat([getattr(step, key) for step in steps]).cpu() for steps in (got, want))
            rows = same if key in ("skill", "action") else slice(None)
            errors[f"{name}/{key}"] = relative_error(a[rows], b[rows])
        return errors


class Update(Work):
    """One update of every module from a batch [B, L]."""

    behavior = True

    name = "update"

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        t = self.config.train
        return self.batch(t.batch_size, t.batch_length, generator)

    def batch(self, b: int, length: int, generator: torch.Generator) -> SequenceBatch:
        first = torch.zeros(b, length, dtype=torch.bool)
        first[0, length // 2] = True
        batch = SequenceBatch(
            torch.randn(b, length, self.dims[0], generator=generator),
            torch.rand(b, length, self.dims[1], generator=generator) * 2 - 1,
            torch.rand(b, length, generator=generator),
            torch.zeros(b, length),
            first,
        )
        return SequenceBatch(*(x.to(self.device) for x in batch))

    def function(self, agent: ImaginationAgent) -> Callable[..., Any]:
        def update(*batch: Tensor) -> dict[str, Tensor]:
            return agent.update(SequenceBatch(*batch), behavior=self.behavior)

        return update

    def outputs(self, function: Callable[..., Any], agent: ImaginationAgent, weights: list[Tensor]) -> Any:
        # The checked agent must not be the first to create its optimisers' state: rewinding sets that to zero.
        rewind(agent, weights)
        metrics = [clone(function(*self.inputs[i % INPUT_SETS])) for i in range(CHECK_UPDATES)]
        moved = torch.cat(
            [(p.detach() - w).flatten() for p, w in zip(agent.modules.parameters(), weights, strict=True)]
        )
        return metrics, moved

    def compare(self, got: Any, want: Any, name: str) -> dict[str, float]:
        """The worst metric of each kind, relative to max(|metric|, 0.1), and how far the weights moved."""
        errors: dict[str, float] = {}
        for a, b in zip(got[0], want[0], strict=True):
            if a.keys() != b.keys():
                raise CheckError("failed its check: other metrics than eager's")
            for key in a:
                x, y = float(a[key]), float(b[key])
                error = abs(x - y) / max(abs(y), 0.1) if math.isfinite(x) and math.isfinite(y) else math.inf
                # What follows a plan follows its elites, which rounding can choose.
                part = f"{name}/{'world_model' if key.startswith('world_model') else 'behavior'}"
                errors[part] = max(errors.get(part, 0.0), error)
        if want[1] is not None:
            moved = relative_error(got[1], want[1])
            # Adam's first steps are signs of gradients: where those are rounding, so are the steps.
            if not moved <= 0.5:
                raise CheckError(f"failed its check: the weights moved elsewhere, by {moved:.3g} of the way")
        return errors

    def few(self) -> SequenceBatch:
        return self.batch(2, min(4, self.config.train.batch_length), torch.Generator().manual_seed(11))

    def outputs_few(self, agent: ImaginationAgent, weights: list[Tensor]) -> Any:
        """An eager update from few sequences, to compare with float64's."""
        rewind(agent, weights)
        return [clone(agent.update(self.few(), behavior=self.behavior))], None

    def reference(self, agent: ImaginationAgent, weights: list[Tensor]) -> Any:
        agent64 = in_float64(agent, weights, Noise(agent.noise.seed, self.device))
        return [agent64.update(SequenceBatch(*(double(x) for x in self.few())), behavior=self.behavior)], None


class WorldModel(Update):
    """The part of an update that trains the world model."""

    name = "model"
    behavior = False


WORKS: dict[str, type[Work]] = {w.name: w for w in (Plan, Act, PlanActions, WorldModel, Update)}


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


# Building and timing


class Bench:
    """All variants of one piece of work."""

    def __init__(self, work: Work, args: argparse.Namespace, device: torch.device) -> None:
        self.work, self.args, self.device = work, args, device
        self.eager_outputs: dict[str, Any] = {}
        self.references: dict[str, Any] = {}
        self.eager_errors: dict[str, dict[str, float]] = {}

    def run(self) -> tuple[list[Variant], int]:
        """Build and check every variant, then time those that passed; also the work's floating-point operations."""
        variants = [v for precision in self.args.precisions for v in self.of_precision(precision)]
        flops = self.count_flops()
        for variant in variants:
            self.prepare(variant)
            release(self.device)
        self.time([v for v in variants if v.failure is None])
        return variants, flops

    def of_precision(self, precision: str) -> list[Variant]:
        names = [name for name in VARIANTS if name == "eager" or name in self.args.variants]
        names = [name for name in names if self.work.name in ONLY.get(name, WORKS)]
        if self.work.name == "act":
            names.insert(1, "policy")
        return [Variant(self.work.name, name, precision) for name in names]

    def agent(self, name: str, precision: str) -> ImaginationAgent:
        backend = VARIANTS[name].backend if name in VARIANTS else "auto"
        c = self.work.config
        overrides = {
            "backend": "reference" if self.device.type == "cpu" else backend,
            "planner.precision": "bf16" if precision == "bf16" else "fp32",
            "train.matmul": "fp32" if precision == "fp32" else "tf32",
            # What is timed is captured here; `policy` is the agent's own way.
            "train.cuda_graph": name == "policy",
        }
        return ImaginationAgent(*self.work.dims, replace(c, overrides))

    def count_flops(self) -> int:
        """Of matrix products, as the eager function issues them."""
        agent = self.agent("eager", "fp32")
        with FlopCounterMode(display=False) as counter:
            self.work.timed(self.work.function(agent))(0)
        return counter.get_total_flops()

    def prepare(self, variant: Variant) -> None:
        """Build, check and measure the memory of a variant; its failure is a row, not an end."""
        torch.set_float32_matmul_precision(MATMUL[variant.precision])
        if variant.name.startswith("compile") and self.args.quick and self.work.name in ("model", "update"):
            variant.failure = "not run: --quick leaves out compiling the update, which takes minutes"
            return
        if variant.name != "eager" and variant.precision not in self.eager_errors:
            variant.failure = "not run: eager failed"
            return
        print(f"{variant.work} {variant.name} {variant.precision} ...", file=sys.stderr, flush=True)

        def build_and_check() -> None:
            cuda = self.device.type == "cuda"
            base = torch.cuda.memory_allocated() if cuda else 0
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            agent = variant.agent = self.agent(variant.name, variant.precision)
            self.work.config = agent.config
            weights = snapshot(agent)
            function = self.build(variant.name, agent)
            variant.call = function if variant.name in ("policy", "JAX") else self.work.timed(function)
            variant.call(0)
            if cuda and not variant.name.startswith("graph"):
                # A graph takes its memory while it is captured, the others whenever they run.
                torch.cuda.reset_peak_memory_stats()
                variant.call(1)
            synchronize(self.device)
            variant.peak_memory = torch.cuda.max_memory_allocated() - base if cuda else None
            self.check(variant, function, agent, weights)

        attempt(variant, build_and_check)

    def build(self, name: str, agent: ImaginationAgent) -> Callable[..., Any]:
        work = self.work
        if name == "policy":
            assert isinstance(work, Act)
            return work.policy(agent)
        if name == "JAX":
            return jax_plan(work, agent)
        if name == "graph, one kernel":
            from lsp_fast.backends import triton

            if agent.backend.name != "triton":
                raise CheckError("not run: there are no Triton kernels here")
            agent.backend = agent.backend._replace(pack_heads=functools.partial(triton.pack_heads, whole_rollout=True))
        function, way = work.function(agent), VARIANTS[name]
        if name == "eager":
            return function
        # A stream's generator is made from its name, which a compiler cannot follow: one eager call makes them all.
        work.timed(function)(0)
        torch._dynamo.config.recompile_limit = 64  # beyond its limit, compiled code silently runs eagerly
        if name == "compile parts":
            agent.world_model.loss = torch.compile(agent.world_model.loss, dynamic=False)
            compiled = {
                k: torch.compile(getattr(agent.backend, k), dynamic=False)
                for k in ("imagine", "lambda_return", "select_elites")
            }
            agent.backend = agent.backend._replace(**compiled)
            return function
        if way.mode is not None:
            return torch.compile(function, mode=None if way.mode == "default" else way.mode, dynamic=False)
        return capture(function, *(x.to(self.device) for x in work.inputs[0]), generators=agent.noise.generators)

    def check(
        self, variant: Variant, function: Callable[..., Any], agent: ImaginationAgent, weights: list[Tensor]
    ) -> None:
        work, precision = self.work, variant.precision
        if variant.name == "policy":
            assert isinstance(work, Act)
            variant.errors = work.check_policy(agent, weights)
            judge(variant.errors, precision, None)
            return
        if variant.name == "JAX":
            variant.errors = {"eager/values": relative_error(torch.as_tensor(function(0)), jax_expected(work, agent))}
            judge(variant.errors, precision, None)
            return
        eager = variant.name == "eager"
        got = work.outputs(function, agent, weights)
        if not eager:
            variant.errors = work.compare(got, self.eager_outputs[precision], "eager")
        if eager or not isinstance(work, Update):
            if precision not in self.references:
                # Float64 does not know precisions, but the noise's streams are rewound by `outputs` alone.
                self.references[precision] = work.reference(agent, weights)
            few = work.outputs_few(agent, weights) if isinstance(work, Update) else got
            variant.errors |= work.compare(few, self.references[precision], "float64")
        judge(variant.errors, precision, None if eager else self.eager_errors[precision])
        if eager:
            # Once more from the beginning: how far eager is from itself.
            again = work.compare(work.outputs(function, agent, weights), got, "eager")
            judge(again, precision, None)
            variant.errors |= again
            self.eager_outputs[precision], self.eager_errors[precision] = got, variant.errors

    def time(self, variants: list[Variant]) -> None:
        """Interleaved samples; each is the mean of enough calls to take the least time."""
        repeats: dict[int, int] = {}

        def warm_up(v: Variant, call: Callable[[int], Any]) -> None:
            for i in range(self.args.warmup):
                call(i)
            once = sample(call, 1, self.device)
            repeats[id(v)] = max(1, min(1000, math.ceil(self.args.sample_seconds / once)))

        def measure(v: Variant, call: Callable[[int], Any]) -> None:
            v.seconds.append(sample(call, repeats[id(v)], self.device))

        def check_finite(_: Variant, call: Callable[[int], Any]) -> None:
            if not all(torch.as_tensor(x).isfinite().all() for x in tree_leaves(call(0))):
                raise CheckError("became NaN or infinite while it was timed")

        for step in (warm_up, *[measure] * self.args.samples, check_finite):
            for v in variants:
                if v.call is not None:
                    torch.set_float32_matmul_precision(MATMUL[v.precision])
                    attempt(v, functools.partial(step, v, v.call))


def jax_problem(work: Work, agent: ImaginationAgent) -> Problem:
    """The plan of the first inputs, its noise drawn beforehand, on the processor."""
    stoch, deter = work.inputs[0] if isinstance(work, Plan) else work.inputs[0][1:3]
    c, noise = agent.config, Noise(5, agent.device)
    drawn = draw_plan_noise(noise, "jax", c, len(stoch), (c.model.stoch, work.dims[1]), sample=True)
    start = State(stoch, deter)
    parts = tree_map(lambda x: x.detach().cpu() if isinstance(x, Tensor) else x, (
        start, agent.plan_weights(), drawn, standard_normal(start, c, work.dims[1])
    ))  # fmt: skip
    return Problem(*parts, plan_rules(c))


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
    return plan_skills(p.start, p.weights, p.noise, agent.config, agent.backend).values[0]


def attempt(variant: Variant, action: Callable[[], None]) -> None:
    """Run a part of a variant's measurement; whatever a compiler or a driver raises becomes the variant's row."""
    try:
        action()
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        kind = "" if isinstance(error, CheckError) else f"{type(error).__name__}: "
        variant.failure = (kind + first)[:300]
        variant.call, variant.agent, variant.seconds = None, None, []


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def release(device: torch.device) -> None:
    """Give back what a variant left over, so that the next one's memory is its own."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def sample(call: Callable[[int], Any], repeats: int, device: torch.device) -> float:
    """Seconds of one call: device events around `repeats` of them (the clock on the processor)."""
    if device.type != "cuda":
        begin = time.perf_counter()
        for i in range(repeats):
            call(i)
        return (time.perf_counter() - begin) / repeats
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for i in range(repeats):
        call(i)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats


def measure_peaks(args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """FLOP/s of a large product of random matrices in each precision."""
    n = 8192 if device.type == "cuda" else 256
    kinds = dict.fromkeys([*args.precisions, *(["bf16"] if device.type == "cuda" else [])])
    peaks = {}
    for kind in kinds:
        torch.set_float32_matmul_precision(MATMUL.get(kind, "highest"))
        dtype = torch.bfloat16 if kind == "bf16" else torch.float32
        generator = torch.Generator(device).manual_seed(3)
        a, b = (torch.randn(n, n, generator=generator, device=device).to(dtype) for _ in range(2))
        out = torch.empty(n, n, device=device, dtype=dtype)

        def product(_: int, a: Tensor = a, b: Tensor = b, out: Tensor = out) -> Tensor:
            return torch.mm(a, b, out=out)

        for i in range(3):
            product(i)
        peaks[kind] = 2 * n**3 / statistics.median(sample(product, 5, device) for _ in range(args.samples))
    release(device)
    return peaks


# Reporting


def row(v: Variant, flops: int, peaks: dict[str, float], eager: dict[str, float]) -> dict[str, Any]:
    """A variant as plain values."""
    seconds = statistics.median(v.seconds) if v.seconds else None
    base = eager.get(v.precision)
    return {
        "work": v.work,
        "variant": v.name,
        "precision": v.precision,
        "failure": v.failure,
        "ms": None if seconds is None else seconds * 1e3,
        "samples_ms": [s * 1e3 for s in v.seconds],
        "spread": (max(v.seconds) - min(v.seconds)) / seconds if seconds else None,
        "ratio_to_eager": base / seconds if seconds and base else None,
        "flop": flops,
        "flop_per_s": flops / seconds if seconds else None,
        "share_of_peak": flops / seconds / peaks[v.precision] if seconds else None,
        "peak_memory_bytes": v.peak_memory,
        # JSON has no infinity.
        "errors": {k: e if math.isfinite(e) else str(e) for k, e in v.errors.items()},
    }


def table(rows: list[dict[str, Any]], title: str) -> str:
    """One line a row; a failed one says why."""
    head = f"{'work':7} {'variant':24} {'prec':5} {'ms':>9} {'spread':>7} {'x eager':>8} {'TFLOP/s':>8} {'peak':>6} "
    lines = [title, head + f"{'MiB':>7} {'error':>8}"]
    for r in rows:
        start = f"{r['work']:7} {r['variant']:24} {r['precision']:5}"
        if r["ms"] is None:
            lines.append(f"{start} {r['failure']}")
            continue
        ratio = f"{r['ratio_to_eager']:.2f}" if r["ratio_to_eager"] else "-"
        memory = f"{r['peak_memory_bytes'] / 2**20:.0f}" if r["peak_memory_bytes"] is not None else "-"
        hidden = ("same_elites", "undecided", "wrong_elites")
        worst = max((float(e) for k, e in r["errors"].items() if not k.endswith(hidden)), default=0.0)
        lines.append(
            f"{start} {r['ms']:9.3f} {r['spread']:7.1%} {ratio:>8} {r['flop_per_s'] / 1e12:8.3f} "
            f"{r['share_of_peak']:6.1%} {memory:>7} {worst:8.1e}"
        )
    return "\n".join(lines)


def environment(device: torch.device) -> dict[str, Any]:
    """What the figures depend on besides the code."""
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = None
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "capability": list(torch.cuda.get_device_capability()) if cuda else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "revision": revision(),
    }


def revision() -> str:
    """The commit, with a mark where the tree differs from it."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=ROOT, capture_output=True, text=True
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter samples; the update is not compiled")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument(
        "--task-dims", type=int, nargs=2, default=(78, 12), metavar=("O", "A"), help="default: quadruped's"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the script itself")
    parser.add_argument("--preset", choices=("paper", "cpu", "smoke"), help="default: paper; smoke on the cpu")
    parser.add_argument("--work", nargs="+", choices=tuple(WORKS), default=tuple(WORKS))
    parser.add_argument(
        "--variants", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS), help="eager always runs"
    )
    parser.add_argument("--precisions", nargs="+", choices=tuple(MATMUL), default=tuple(MATMUL))
    parser.add_argument("--samples", type=int, help="at least 5; default 9, or 5 with --quick")
    args = parser.parse_args(argv)
    if args.samples is not None and args.samples < 5:
        parser.error(f"--samples {args.samples}: a median needs at least 5")
    args.samples = args.samples or (5 if args.quick else 9)
    args.sample_seconds, args.warmup = (0.05, 3) if args.quick else (0.2, 5)
    if args.device == "cpu":
        # Eager only, in single precision: the numbers mean nothing, the script's logic does.
        args.variants, args.precisions = (), ("fp32",)
        args.sample_seconds, args.warmup = 0.0, 1
    args.preset = args.preset or ("smoke" if args.device == "cpu" else "paper")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA GPU, and PyTorch sees none here.", file=sys.stderr)
        return 2
    device = torch.device(args.device)
    config = make_config(args.preset, device=args.device)
    about = environment(device)
    peaks = measure_peaks(args, device)
    rows = []
    for name in args.work:
        bench = Bench(WORKS[name](config, tuple(args.task_dims), device), args, device)
        variants, flops = bench.run()
        eager = {v.precision: statistics.median(v.seconds) for v in variants if v.name == "eager" and v.seconds}
        rows += [row(v, flops, peaks, eager) for v in variants]
        del bench, variants
        torch.compiler.reset()
        release(device)
    t = config.train
    sizes = {
        "preset": args.preset,
        "task_dims": list(args.task_dims),
        "plan_states": config.behavior.plan_states or t.batch_size * t.batch_length,
        "batch": [t.batch_size, t.batch_length],
        "samples": args.samples,
    }
    result = {"environment": about, "sizes": sizes, "matmul_flop_per_s": peaks, "rows": rows}
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    measured = ", ".join(f"{k} {v / 1e12:.3g}" for k, v in peaks.items())
    print(table(rows, f"{about['device']}, torch {about['torch']}; matrix products reach (TFLOP/s): {measured}"))
    # Eager that fails its check leaves nothing to compare with.
    return int(any(r["variant"] == "eager" and r["failure"] for r in rows))


if __name__ == "__main__":
    sys.exit(main())
