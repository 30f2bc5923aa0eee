"""What is timed: a plan, acting, PlaNet's acting, the world model's update and the whole one.

Each has functions of device tensors, which is what is compiled and captured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gpu.checks import CheckError, clone, compare_plans, double, in_float64, relative_error, rewind
from lsp_fast.agents.imagination import ImaginationAgent
from lsp_fast.config import Config, make_config
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.noise import Noise
from lsp_fast.ops import layers
from lsp_fast.ops.types import PlanNoise, State, features
from lsp_fast.planning.cem import CEMResult

INPUT_SETS = 4  # rotated, so that no variant works on one input that stays in the cache
CHECK_STARTS = 8  # of a plan, against float64
CHECK_ACTS = 8
CHECK_UPDATES = 3


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


class Plan(Work):
    """CEM from all the start states of an update, noise included."""

    name = "plan"

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        t = self.config.train
        return self.states(self.config.behavior.plan_states or t.batch_size * t.batch_length, generator)

    def noise(self, agent: ImaginationAgent, noise: Noise, n: int) -> PlanNoise:
        drawn = agent.planner.draw(noise, "behavior", n, sample=True)
        assert isinstance(drawn, PlanNoise)
        return drawn

    def function(self, agent: ImaginationAgent) -> Callable[..., Any]:
        def plan(stoch: Tensor, deter: Tensor) -> CEMResult:
            drawn = self.noise(agent, agent.noise, len(stoch))
            return agent.planner.search(State(stoch, deter), drawn)

        return plan

    def outputs(self, function: Callable[..., Any], agent: ImaginationAgent, weights: list[Tensor]) -> CEMResult:
        rewind(agent, weights)
        return clone(function(*self.inputs[0]))

    def reference(self, agent: ImaginationAgent, weights: list[Tensor]) -> CEMResult:
        start, g = State(*self.inputs[0]), self.config.planner.candidates
        n = min(CHECK_STARTS, len(start.stoch))
        drawn = self.noise(agent, Noise(agent.noise.seed, self.device), len(start.stoch))
        action = None if drawn.action is None else drawn.action[:, :, : n * g]
        few = PlanNoise(drawn.candidates[:, :n], drawn.stoch[:, :, : n * g], action)
        agent64 = in_float64(agent, weights, agent.noise)
        exact = PlanNoise(*(None if x is None else double(x) for x in few))
        return agent64.planner.search(State(*(double(x[:n]) for x in start)), exact)

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
    plan = agent.planner.search(state, agent.planner.draw(noise, "act", n, sample=True))
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
