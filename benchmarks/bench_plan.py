"""A whole plan (CEM over skills), learning and acting: C++ beside PyTorch and JAX, in fp32 and in bf16."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from measure import Process, Work, peer

from lsp_fast import backends
from lsp_fast.agents import ImaginationAgent
from lsp_fast.config import make_config
from lsp_fast.noise import Noise
from lsp_fast.ops.imagine_heads import as_bf16
from lsp_fast.ops.types import Normal, PlanKey, PlanNoise, PlanRules, PlanWeights, State
from lsp_fast.planning.plan import plan

DIMS = 78, 12
"""Observation and action of the quadruped."""

PEERS = {
    "eager, MKL's fast path": "eager_mkl",
    "torch.compile": "compile",
    "torch.compile, tuned": "compile_tuned",
    "JAX": "jax",
    "eager bf16": "eager_bf16",
    "torch.compile bf16": "compile_bf16",
    "JAX bf16": "jax_bf16",
}


@dataclass(frozen=True)
class Problem:
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
    c = make_config(preset, algorithm, device="cpu", backend="reference", **overrides)
    agent = ImaginationAgent(*DIMS, c)
    drawn = Noise(1)
    start = State(drawn.normal("s", starts, c.model.stoch), drawn.normal("h", starts, c.model.deter).tanh())
    noise = agent.planner.draw(Noise(0), "plan", starts, sample=starts > 1)
    assert isinstance(noise, PlanNoise)
    return Problem(start, detached(agent.plan_weights()), noise, agent.planner.prior(start), agent.planner.rules)


def detached(x):
    """Nested tuples of weights without their gradients."""
    if isinstance(x, torch.Tensor):
        return x.detach()
    if isinstance(x, tuple):
        parts = [detached(y) for y in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x


def plan_operations(weights: PlanWeights, noise: PlanNoise) -> float:
    """Multiplications and additions of all layers in a whole plan."""

    def matrices(x) -> list[torch.Tensor]:
        if isinstance(x, torch.Tensor):
            return [x] if x.dim() == 2 else []
        return [m for y in x for m in matrices(y)] if isinstance(x, tuple) else []

    i, n, g = noise.candidates.shape[:3]
    return 2.0 * sum(m.numel() for m in matrices(weights)) * i * n * g * noise.stoch.shape[1]


def works() -> Iterator[Work]:
    """Plans from 32 start states (learning, with sampled actions) and from one (acting in evaluation)."""
    for preset, starts in (("cpu", 32), ("cpu", 1), ("paper", 32), ("paper", 1)):
        yield plans(preset, starts)


def plans(preset: str, starts: int, algorithm: str = "lsp") -> Work:
    """The noise is drawn beforehand, but for the variant that draws its own."""
    p = problem(preset, starts, algorithm)
    cpp = backends.get("cpp")
    arguments = (p.start, p.weights, p.noise, p.prior)
    bf16 = p.rules._replace(precision="bf16")
    key = PlanKey(torch.tensor([1, 2]), *p.noise.candidates.shape[:3:2], p.noise.stoch.shape[1], starts > 1, False)
    variants = {
        "eager": partial(plan, *arguments, p.rules, backends.REFERENCE),
        "C++": partial(plan, *arguments, p.rules, cpp),
        "C++ bf16": partial(plan, *arguments, bf16, cpp),
        "C++ bf16, its own noise": partial(plan, p.start, p.weights, key, p.prior, bf16, cpp),
    }
    first = variants["eager"]().values[0]  # later ones follow the elites
    scale = first.abs().max()
    for name in ("C++", "C++ bf16"):
        error = (variants[name]().values[0] - first).abs().max() / scale
        assert error < (0.02 if "bf16" in name else 1e-4), f"{name} is off by {error}"
    missing: dict[str, str] = {}
    for name, kind in PEERS.items():
        found = peer(kind, preset, starts, algorithm)
        if isinstance(found, Process):
            error = (torch.tensor(found.values) - first).abs().max() / scale
            assert error < (0.1 if "bf16" in name else 1e-4), f"{name} is off by {error}"
            variants[name] = found
        else:
            missing[name] = found
    c, whose = make_config(preset, algorithm), "" if algorithm == "lsp" else f"{algorithm}, "
    cem = c.planner
    return Work(
        f"plan, {whose}{preset} preset, {starts} x {cem.candidates} x {c.behavior.horizon} x {cem.iterations}",
        "eager",
        variants,
        missing=missing,
        operations=p.operations,
    )


def peer_function(kind: str, preset: str, starts: int, algorithm: str = "lsp"):
    """What a process of its own runs for `kind`: returns the values [I, N, G] as a tensor or array."""
    p = problem(preset, int(starts), algorithm)
    if kind.startswith("jax"):
        from peers import jax_plan

        return jax_plan.build(p, bf16=kind.endswith("bf16"))
    if kind.endswith("bf16"):
        p = p.bf16()
    if kind.startswith("eager"):
        return lambda: plan(p.start, p.weights, p.noise, p.prior, p.rules, backends.REFERENCE).values
    from peers import compiled_plan

    return compiled_plan.build(p, tuned=kind.endswith("tuned"))
