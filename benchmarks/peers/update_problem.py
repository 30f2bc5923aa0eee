"""The training update that every peer is given, whole and in parts, and what its result is compared with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lsp_fast.agents import ImaginationAgent
from lsp_fast.agents.behavior_update import update_behavior
from lsp_fast.config import make_config
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.noise import Noise
from lsp_fast.ops.types import Normal, State
from lsp_fast.planning.planner import SkillPlan
from peers.problem import DIMS, PLAIN

PARTS = {
    "update": ("world_model", "actor", "value", "predictor"),
    "world_model": ("world_model",),
    "behavior": ("actor", "value", "predictor"),
}
"""What is timed, and the modules that it trains; `behavior` starts from given states and plans."""
LOSS_ERRORS = (1e-4, 1e-3)
"""Of each loss and gradient's norm, relative: of the first update, and of the second, which finds other weights."""
STEP_ERROR = 1e-3
"""Of a module's two steps, ||theirs - reference's|| / ||reference's||: Adam's first step is nearly the gradient's sign,
so that rounding alone decides where a number's gradient is about zero."""


class KeptNoise(Noise):
    """Noise that remembers what it gave, by stream."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.kept: dict[str, list[Tensor]] = {}

    def normal(self, stream: str, *shape: int) -> Tensor:
        return self._keep(stream, super().normal(stream, *shape))

    def choice(self, stream: str, total: int, count: int) -> Tensor:
        return self._keep(stream, super().choice(stream, total, count))

    def _keep(self, stream: str, numbers: Tensor) -> Tensor:
        self.kept.setdefault(stream, []).append(numbers)
        return numbers


class Given(NamedTuple):
    """What behaviour learns from where it is timed alone."""

    start: State  # [N, ...]
    plan: Normal  # [N, P, Z]


class Expected(NamedTuple):
    """What the reference's first two updates gave."""

    losses: list[dict[str, float]]
    noise: dict[str, list[Tensor]]
    before: dict[str, Any]
    """Every module's weights, as nested tuples."""
    after: dict[str, Any]


def agent_of(preset: str, starts: int, **overrides: Any) -> ImaginationAgent:
    """The same initial weights for the same preset."""
    config = make_config(preset, device="cpu", behavior__plan_states=starts, **{**PLAIN, **overrides})
    return ImaginationAgent(*DIMS, config)


def function_of_part(agent: ImaginationAgent, part: str, starts: int) -> Callable[[], dict[str, Tensor]]:
    """One call makes that part of an update and returns its metrics. An agent's behaviour alone plans no more."""
    t = agent.config.train
    sequences = batch(t.batch_size, t.batch_length)
    if part != "behavior":
        return partial(agent.update, sequences, behavior=part == "update")
    start, plan = given(agent, starts)
    agent.planner.distribution = lambda *_, **__: SkillPlan(*plan, *plan)

    def behavior() -> dict[str, Tensor]:
        with agent.backend.alone():
            return update_behavior(agent, start, None, sequences, diagnose=False, balance=False)

    return behavior


def batch(sequences: int, length: int) -> SequenceBatch:
    """Random numbers where a replay's would be; a tenth of the rows begins an episode."""
    generator = torch.Generator().manual_seed(0)
    observation = torch.randn(sequences, length, DIMS[0], generator=generator)
    action = torch.rand(sequences, length, DIMS[1], generator=generator) * 2 - 1
    reward = torch.rand(sequences, length, generator=generator)
    is_first = torch.rand(sequences, length, generator=generator) < 0.1
    return SequenceBatch(observation, action, reward, torch.zeros(sequences, length), is_first)


def given(agent: ImaginationAgent, starts: int) -> Given:
    """Start states, and what a planner might have found from them."""
    c, drawn = agent.config, Noise(1)
    start = State(drawn.normal("s", starts, c.model.stoch), drawn.normal("h", starts, c.model.deter).tanh())
    shape = (starts, *c.plan_shape(agent.action_dim))
    return Given(start, Normal(drawn.normal("mean", *shape), 0.1 + drawn.normal("std", *shape).abs()))


def expected(preset: str, starts: int, part: str) -> Expected:
    """One part of two updates by the reference: the second one finds Adam's moments."""
    agent = agent_of(preset, starts, backend="reference")
    noise = agent.noise = KeptNoise(agent.config.seed)
    before, function = copied(weights_of(agent)), function_of_part(agent, part, starts)
    losses = [losses_of(function()) for _ in range(2)]
    return Expected(losses, noise.kept, before, copied(weights_of(agent)))


def losses_of(metrics: dict[str, Tensor]) -> dict[str, float]:
    """The losses among an update's metrics, and the gradients' norms."""
    return {k: v.item() for k, v in metrics.items() if k.endswith(("loss", "grad_norm"))}


def weights_of(agent: ImaginationAgent) -> dict[str, Any]:
    """Every module's live parameters, as nested tuples."""
    model = agent.world_model
    assert agent.actor is not None and agent.value is not None and agent.predictor is not None
    rssm = tuple(model.rssm.prior_weights()[:4]), tuple(model.rssm.posterior_weights()[:2])
    return {
        "world_model": (model.encoder.weights(), *rssm, model.decoder.weights(), model.reward.weights()),
        "actor": agent.actor.mlp.weights(),
        "value": agent.value.weights(),
        "predictor": agent.predictor.mlp.weights(),
    }


def copied(x: Any) -> Any:
    """Nested tuples whose tensors stay as they are now."""
    if isinstance(x, Tensor):
        return x.detach().clone()
    if isinstance(x, dict):
        return {k: copied(y) for k, y in x.items()}
    return tuple(copied(y) for y in x) if isinstance(x, tuple) else x


def leaves(x: Any) -> list[Tensor]:
    """The tensors of nested tuples, in order."""
    if isinstance(x, Tensor):
        return [x.detach()]
    return [leaf for y in x for leaf in leaves(y)] if isinstance(x, tuple) else []


def compare(agent: ImaginationAgent, function: Callable[[], dict[str, Tensor]], part: str, want: Expected) -> None:
    """Make two updates of a new agent by its function, and `check` that part of them."""
    losses = [losses_of(function()) for _ in range(2)]
    check(part, want, losses, weights_of(agent))


def check(part: str, want: Expected, losses: list[dict[str, float]], after: dict[str, Any]) -> None:
    """Raise AssertionError unless losses, gradients' norms and the steps of the modules that the part trains agree."""
    for got, wanted, most in zip(losses, want.losses, LOSS_ERRORS, strict=True):
        for name, value in wanted.items():
            error = abs(got[name] - value) / abs(value)
            assert error < most, f"{name} is {got[name]}, not {value}"
    for name in PARTS[part]:
        error = step_error(want.before[name], want.after[name], after[name])
        assert error < STEP_ERROR, f"the steps of {name} are off by {error:.1e}"


def step_error(before: Any, want: Any, got: Any) -> float:
    """||got - want|| / ||want - before|| over all numbers of a module."""
    before, want, got = (torch.cat([leaf.double().flatten() for leaf in leaves(x)]) for x in (before, want, got))
    return float((got - want).norm() / (want - before).norm())
