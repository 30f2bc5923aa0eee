"""What a variant must agree with before it is timed: eager on the same noise, and float64 on the processor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lsp_fast.agents.imagination import ImaginationAgent
from lsp_fast.config import replace
from lsp_fast.noise import Noise
from lsp_fast.planning.cem import CEMResult

# Bounds of ||out - ref|| / ||ref||. The candidates' values may also not be further from float64 than twice eager's,
# or than what the precision's rounding makes of it by chance.
LIMIT = {"fp32": 1e-3, "tf32": 3e-2, "bf16": 1e-1}
ROUNDING = {"fp32": 1e-5, "tf32": 1e-3, "bf16": 1e-2}
# Where rounding decides between two candidates, the plans that follow differ: this share must still be the same.
SAME_ELITES = {"fp32": 0.75, "tf32": 0.0, "bf16": 0.0}


class CheckError(Exception):
    """A variant that does not compute what it should."""


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


# State of an agent, and what it returned


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


def clone(result: Any) -> Any:
    """A graph's next replay overwrites what it returned."""
    if isinstance(result, Tensor):
        return result.detach().clone()
    if isinstance(result, dict):
        return {k: clone(v) for k, v in result.items()}
    return type(result)(*(clone(x) for x in result))
