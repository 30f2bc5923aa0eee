"""Observation -> action -> replay: the environments of a run and the policy's memory of them. Knows no loss."""

from __future__ import annotations

import functools
import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch

from lsp_fast import processes
from lsp_fast.agents import Agent
from lsp_fast.config import Config
from lsp_fast.errors import EnvironmentFailed
from lsp_fast.experience import relabel
from lsp_fast.experience.driver import Driver, EpisodeSummary
from lsp_fast.experience.replay import Replay
from lsp_fast.noise import Noise, stream_seed
from lsp_fast.training.schedule import Phase

RECENT = 10
"""Exploring episodes that the metrics average."""


class Collector:
    """Acts in all environments and records what happens.

    Args:
        config: checked.
        agent: acts; nothing of it is changed but its clock, which counts the steps made.
        replay: receives every row.
        environments: E of them, with equal spaces.

    Attributes:
        env_steps, agent_steps: made so far, of all environments together, those of other processes among them.
        episodes: completed ones in the replay; of several processes the one's that has fewest.
        returns, successes: of the most recent episodes.
    """

    def __init__(self, config: Config, agent: Agent, replay: Replay, environments: Sequence[gymnasium.Env]) -> None:
        self.agent = agent
        self.explorer = np.random.default_rng(stream_seed(config.seed, "prefill"))
        self.env_steps = self.agent_steps = self.episodes = 0
        self.replay = replay
        self.returns, self.successes = deque[float](maxlen=RECENT), deque[float](maxlen=RECENT)
        # The agent's own extras, or else what the environments tell for relabelling.
        told = None
        if replay.extras_dim and not agent.extras_dim:
            told = functools.partial(relabel.extras, action_repeat=config.collect.action_repeat)
        # A name decides a stream's numbers: another one here would change every curve in benchmarks/results.
        seed = stream_seed(config.seed, "train/0")
        threads = config.threads or None
        self.driver = Driver(environments, seed, replay, threads=threads, info_extras=told, extras_dim=agent.extras_dim)
        noise = Noise(stream_seed(config.seed, "collect/0"), agent.device)
        self.carry = agent.initial_carry(len(environments), explore=True, noise=noise)

    def begin(self) -> None:
        """Begin the first episodes."""
        self.driver.reset()

    def take_back(self) -> None:
        """Go on with the running episodes after something else was done in these very environments."""
        self.driver.load(self.driver.state())

    def collect(
        self, phase: Phase, meanwhile: Callable[[], object] | None = None, alarm: Callable[[], object] | None = None
    ) -> None:
        """One agent step in every environment.

        Args:
            phase: who acts.
            meanwhile: called while the environments step on a thread of their own.
            alarm: called before an action that is not a number is taken: what it raises says more.
        """
        driver, agent, extras = self.driver, self.agent, None
        if phase is Phase.RANDOM:
            shape = (len(driver.observations), agent.action_dim)
            actions = self.explorer.uniform(-1, 1, shape).astype(np.float32)
        else:
            self.carry = agent.reset(self.carry, driver.is_first)
            actions, self.carry = agent.policy(driver.observations, self.carry)
            extras = agent.extras(self.carry)
        if alarm is not None and not np.isfinite(actions).all():
            alarm()
        finished: list[EpisodeSummary] = []
        env_steps = agent_steps = 0
        failure = None
        try:
            env_steps, finished = driver.step(actions, meanwhile, extras)
            agent_steps = len(actions)
        except EnvironmentFailed as error:
            failure = error
        self.returns.extend(episode.episode_return for episode in finished)
        self.successes.extend(float(episode.success) for episode in finished if episode.success is not None)
        self._count(env_steps, agent_steps, failure)
        agent.at(self.env_steps)

    def pass_by(self, env_steps: int) -> None:
        """Count environment steps of this process as if they were taken; nothing is stepped and nothing recorded."""
        self._count(env_steps, 0, None)
        self.agent.at(self.env_steps)

    def _count(self, env_steps: int, agent_steps: int, failure: EnvironmentFailed | None) -> None:
        """Add the steps of all processes, and raise what failed in any of them."""
        told = processes.all_gather([env_steps, agent_steps, self.replay.num_episodes, failure is not None])
        steps, made, episodes, failed = zip(*told, strict=True)
        self.env_steps += sum(steps)
        self.agent_steps += sum(made)
        self.episodes = min(episodes)
        if any(failed):
            reasons = processes.all_gather_object(None if failure is None else str(failure))
            raise failure or EnvironmentFailed(next(reason for reason in reasons if reason is not None))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: running episodes as their actions, the policy's memory, counts."""
        driver = self.driver.state()
        return {
            "driver": {
                "next_episode": driver["next_episode"],
                "actions": [torch.from_numpy(actions) for actions in driver["actions"]],
                "extras": [torch.from_numpy(rows) for rows in driver["extras"]],
                "seen": driver["seen"],
            },
            "carry": self.carry.state_dict(),
            "explorer": json.dumps(self.explorer.bit_generator.state),
            "agent_steps": self.agent_steps,
            "returns": list(self.returns),
            "successes": list(self.successes),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, in the middle of the episodes that were running."""
        # Runs from before there was one word for them called extras `beside`.
        self.driver.load({"extras": state["driver"].get("beside"), **state["driver"]})
        self.carry = self.carry.loaded(state["carry"], state["env_steps"])
        self.explorer.bit_generator.state = json.loads(state["explorer"])
        self.env_steps, self.agent_steps = state["env_steps"], state["agent_steps"]
        self.agent.at(self.env_steps)
        self.returns.extend(state["returns"])
        self.successes.extend(state.get("successes", []))
