"""One run in memory: a collector and a learner over one replay, in the phases of a schedule (SPEC section 1)."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from lsp_fast import agents, processes
from lsp_fast.agents import Agent
from lsp_fast.config import Config
from lsp_fast.envs.goals import goal_entries
from lsp_fast.errors import ConfigError, LspFastError
from lsp_fast.evaluate import dimensions, make_envs
from lsp_fast.experience import relabel
from lsp_fast.experience.replay import Replay
from lsp_fast.storage import checkpoint
from lsp_fast.training.collector import Collector
from lsp_fast.training.data import begin_with
from lsp_fast.training.learner import Learner
from lsp_fast.training.means import Means
from lsp_fast.training.schedule import Phase, Schedule
from lsp_fast.training.transfer import take_over


class Trainer:
    """Feeds the learner what the collector finds.

    Args:
        config: checked.
        replay_folder: where the replay is kept on disk.
        state: a checkpoint to go on from; else the run begins, perhaps from another one's networks.
        environments: to train in, `collect.num_envs` of them; made here by default.

    Raises:
        ConfigError: the replay cannot hold an episode, or what is to be taken over does not fit.
        CheckpointError: the checkpoint does not fit.

    Attributes:
        reseeded: the checkpoint is of another kind of device, whose random numbers cannot go on here.
        held: rows that the replay began with, of another run or recorded.
    """

    def __init__(
        self,
        config: Config,
        replay_folder: Path,
        state: dict[str, Any] | None = None,
        environments: Sequence[gymnasium.Env] | None = None,
    ) -> None:
        self.config, self.replay_folder = config, replay_folder
        if environments is None:
            environments = make_envs(config, config.collect.num_envs)
        observation, action_dim = dimensions(environments[0])
        self.goals = goal_entries(environments[0])
        agent = agents.make(observation, action_dim, config, self.goals)
        self.replay = _replay(config, agent, environments[0])
        self.schedule = Schedule(config)
        self.collector = Collector(config, agent, self.replay, environments)
        self.learner = Learner(agent, self.replay, config.seed)
        self.means = Means()
        self.on_update: Callable[[], object] | None = None
        self.reseeded = False
        self.held = 0
        if state is not None:
            with checkpoint.fitting(state):
                self.reseeded = not agent.noise.continues(state["agent"]["noise"])
                self.load_state_dict(state)
        else:
            if config.transfer.source:
                take_over(config, agent, self.replay)
            if config.data:
                begin_with(config, agent, self.replay)
            self.held = self.replay.num_rows
            # One agent, drawn from the run's seed; noise is each process's own.
            weights = [p.data for p in (*agent.modules.parameters(), *agent.modules.buffers())]
            processes.broadcast(weights)
            self.collector.begin()

    @property
    def agent(self) -> Agent:
        """What acts and learns."""
        return self.learner.agent

    @property
    def env_steps(self) -> int:
        """Environment steps collected so far."""
        return self.collector.env_steps

    @property
    def updates(self) -> int:
        """Updates made so far."""
        return self.learner.updates

    def collect(self) -> bool:
        """One agent step in every environment; with `train.overlap` what is to be learned is learned meanwhile. A run
        that is `offline` counts it alone.

        Returns:
            whether learning begins now.
        """
        schedule, collector = self.schedule, self.collector
        phase, before = schedule.phase, collector.env_steps
        meanwhile = self.learn_due if schedule.learning and self.config.train.overlap else None
        if self.config.offline:
            if meanwhile is not None:
                meanwhile()
            c = self.config.collect
            collector.pass_by(c.num_envs * c.action_repeat)
        else:
            # On a GPU nobody has looked yet at what was learned.
            collector.collect(phase, meanwhile, self.learner.check_finite)
        begins = schedule.advance(collector.env_steps, collector.episodes)
        if (begins and phase is Phase.RANDOM) or (not begins and schedule.refits(before, collector.env_steps)):
            # A policy that was taken over has its scales of observations and goals. The one here enters the episode
            # that is under way with an empty memory, as it has seen none of it.
            self.agent.fit(self.replay)
        return begins

    def learn(self) -> None:
        """One update. Raises NotFinite where a loss or a gradient is not."""
        learner, schedule = self.learner, self.schedule
        behavior, diagnose = not schedule.pretraining(learner.updates), schedule.diagnosing(learner.updates)
        self.means.add(learner.learn(self.env_steps, behavior=behavior, diagnose=diagnose))
        if self.on_update is not None:
            self.on_update()

    def learn_due(self) -> None:
        """All updates that are owed."""
        while self.updates < self.schedule.updates_due(self.env_steps):
            self.learn()

    def state_dict(self) -> dict[str, Any]:
        """A checkpoint's content; also brings the replay on disk up to date. Of several processes the first one's
        holds the others', less the weights, which are the same."""
        state = self._state()
        if processes.count() == 1:
            return state
        own = {**state, "agent": {k: v for k, v in state["agent"].items() if k not in ("modules", "optimizers")}}
        own = tree_map_only(torch.Tensor, torch.Tensor.cpu, own)  # not for the others' GPUs
        said = processes.all_gather_object((_checksum(self.agent.modules), own if processes.rank() else None))
        if len({checksum for checksum, _ in said}) > 1:
            raise LspFastError(
                "the processes' weights are no longer the same: their machines compute differently; train on processes "
                "of one kind of machine"
            )
        return {**state, "others": [other for _, other in said[1:]]}

    def _state(self) -> dict[str, Any]:
        return {
            **self.learner.state_dict(),
            **self.collector.state_dict(),
            **self.schedule.state_dict(),
            "replay": json.dumps(self.replay.save(self.replay_folder)),
            "means": self.means.state_dict(),
            "observation": self.agent.observation,
            "action_dim": self.agent.action_dim,
            "goals": self.goals,
            "held": self.held,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, in the middle of the episodes that were running."""
        if rank := processes.rank():
            own = state["others"][rank - 1]
            state = {**state, **own, "agent": {**state["agent"], **own["agent"]}}
        self.learner.load_state_dict(state)
        self.replay.load(self.replay_folder, json.loads(state["replay"]))
        self.collector.load_state_dict(state)
        self.schedule.load_state_dict(state)
        self.means.load_state_dict(state["means"])
        self.held = state.get("held", 0)  # runs from before it was kept say less


def _checksum(modules: nn.Module) -> int:
    """Of all weights."""
    found = 0
    for value in modules.state_dict().values():
        found = zlib.crc32(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes(), found)
    return found


def _each() -> str:
    return f" in each of {processes.count()} processes" if processes.count() > 1 else ""


def _replay(config: Config, agent: Agent, env: Any) -> Replay:
    """An empty one for what the agent observes, does and wants to be kept.

    Raises:
        ConfigError: it cannot hold an episode.
    """
    c, longest = config.collect, getattr(env, "max_env_steps", None)
    if longest is not None and c.replay_capacity < (rows := math.ceil(longest / c.action_repeat) + 1):
        raise ConfigError(
            f"collect.replay_capacity = {c.replay_capacity}{_each()}: an episode of {config.task} takes {rows} rows, "
            "and learning needs a whole one"
        )
    # What the agent wants to be kept; else what relabelling for another task would need.
    extras = agent.extras_dim or relabel.extras_dim(config.task, c.action_repeat)
    dtype = env.observation_space.dtype or np.float32
    return Replay(c.replay_capacity, agent.observation, agent.action_dim, c.num_envs, dtype=dtype, extras_dim=extras)
