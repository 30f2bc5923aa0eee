"""An agent as one or two functions of named tensors, for a batch of one: what it does at a step, and how it plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lsp_fast.agents import Agent, HiroAgent, ImaginationAgent
from lsp_fast.noise import AskedNoise, GivenNoise, Noise
from lsp_fast.ops.types import State

Compute = Callable[[Mapping[str, Tensor], Noise], dict[str, Tensor]]


@dataclass(frozen=True)
class Input:
    """One input: an array of zeros of its shape and type, and its role (observation, memory, skill or noise)."""

    name: str
    role: str
    like: Tensor


@dataclass(frozen=True)
class Function:
    """One function of tensors.

    Attributes:
        module: takes the inputs in their order, and gives the outputs in theirs.
        outputs: shapes by name.
    """

    module: nn.Module
    inputs: Sequence[Input]
    outputs: Mapping[str, Sequence[int]]

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Arguments to trace it with."""
        return tuple(x.like for x in self.inputs)


@dataclass(frozen=True)
class Functions:
    """What an agent is made of.

    Attributes:
        act: observation, memory and skill to action and memory; without a policy to memory alone.
        plan: memory after an observation (of HIRO the observation) to a skill, or to an action without a policy; None
            where nothing is planned.
        memory: shapes of what is zero where an episode begins, by name, and the output that each becomes.
    """

    act: Function
    plan: Function | None
    memory: Mapping[str, tuple[Sequence[int], str]] = field(default_factory=dict)


class _Traced(nn.Module):
    """A `Compute` as a module of the agent's weights."""

    def __init__(self, agent: Agent, compute: Compute, names: Sequence[str]) -> None:
        super().__init__()
        self.weights, self.compute, self.names = agent.modules, compute, list(names)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.names, tensors, strict=False))
        return tuple(self.compute(given, GivenNoise(tensors[len(self.names) :])).values())


def noise_name(stream: str) -> str:
    """The input's name of a stream of noise: `act/plan_latent` -> `plan_latent_noise`."""
    return stream.removeprefix("act/") + "_noise"


@torch.no_grad()
def _function(agent: Agent, compute: Compute, given: Mapping[str, tuple[str, Tensor]]) -> Function:
    """`compute` with what it draws as further inputs; `given` are role and example of the others."""
    asked = AskedNoise(Noise(0))
    found = compute({name: like for name, (_, like) in given.items()}, asked)
    noise = [Input(noise_name(stream), "noise", torch.zeros(shape)) for _, stream, shape in asked.asked]
    inputs = [Input(name, role, like) for name, (role, like) in given.items()]
    outputs = {name: list(x.shape) for name, x in found.items()}
    return Function(_Traced(agent, compute, [*given]), [*inputs, *noise], outputs)


def functions(agent: Agent, explore: bool) -> Functions:
    """Those of an agent on the processor, with the reference backend.

    Args:
        explore: as while collecting, instead of as in evaluation.
    """
    observation = torch.zeros(1, *agent.observation_shape, dtype=torch.uint8 if agent.pixels else torch.float32)
    if isinstance(agent, HiroAgent):
        return _of_hiro(agent, observation, explore)
    assert isinstance(agent, ImaginationAgent)
    return _of_imagination(agent, observation, explore)


def _of_imagination(agent: ImaginationAgent, observation: Tensor, explore: bool) -> Functions:
    c = agent.config
    state = agent.world_model.rssm.initial(1)
    memory = {"stoch": ("memory", state.stoch), "deter": ("memory", state.deter)}
    last_action = {"last_action": ("memory", torch.zeros(1, agent.action_dim))}
    skill = {"skill": ("skill", torch.zeros(1, c.skill_dim))} if c.skill_dim else {}
    over_actions = agent.actor is None
    plans = over_actions or c.skill.source == "planned"
    last_plan = {"plan": ("memory", torch.zeros(1, *c.plan_shape(agent.action_dim)))} if c.plans_from_last else {}

    def act(x: Mapping[str, Tensor], noise: Noise) -> dict[str, Tensor]:
        latent = noise.normal("act/latent", 1, c.model.stoch)
        after = agent.world_model.filter(State(x["stoch"], x["deter"]), x["last_action"], x["observation"], latent)
        found = {"next_stoch": after.stoch, "next_deter": after.deter}
        return found if over_actions else {"action": agent.act(after, x.get("skill"), noise, explore=explore), **found}

    def plan(x: Mapping[str, Tensor], noise: Noise) -> dict[str, Tensor]:
        first, mean = agent.propose(State(x["stoch"], x["deter"]), noise, explore=explore, last=x.get("plan"))
        if over_actions and explore:
            first = agent.explored(first, noise)
        kept = {"next_plan": mean.clone()} if c.plans_from_last else {}
        return {"action" if over_actions else "skill": first, **kept}

    acts = _function(agent, act, {"observation": ("observation", observation), **memory, **last_action, **skill})
    kept = {"stoch": "next_stoch", "deter": "next_deter", "last_action": "action", "skill": "skill"}
    remembered = {name: (list(x.shape), kept[name]) for name, (_, x) in {**memory, **last_action, **skill}.items()}
    if not plans:
        return Functions(acts, None, remembered)
    remembered |= {name: (list(x.shape), "next_plan") for name, (_, x) in last_plan.items()}
    return Functions(acts, _function(agent, plan, {**memory, **last_plan}), remembered)


def _of_hiro(agent: HiroAgent, observation: Tensor, explore: bool) -> Functions:
    seen = {"observation": ("observation", observation)}
    aim = {"skill": ("skill", torch.zeros(1, agent.goals.dim))}

    def act(x: Mapping[str, Tensor], noise: Noise) -> dict[str, Tensor]:
        return {"action": agent.act(x["observation"], x["skill"], noise, explore=explore)}

    def plan(x: Mapping[str, Tensor], noise: Noise) -> dict[str, Tensor]:
        return {"skill": agent.propose(x["observation"], noise, explore=explore)}

    remembered = {"skill": ([1, agent.goals.dim], "skill")}
    return Functions(_function(agent, act, {**seen, **aim}), _function(agent, plan, seen), remembered)
