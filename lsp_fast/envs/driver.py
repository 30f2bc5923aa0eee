"""Several environments in one process, stepped together (SPEC sections 1 and 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np


class Recorder(Protocol):
    """Where a driver writes its rows; `lsp_fast.replay.Replay` is one."""

    def add(
        self,
        env: int,
        observation: np.ndarray,
        action: np.ndarray,
        reward: float,
        terminated: bool,
        is_first: bool,
        is_last: bool,
    ) -> None: ...


class EpisodeSummary(NamedTuple):
    """One finished episode."""

    env: int
    episode_return: float
    agent_steps: int
    env_steps: int


class StepResult(NamedTuple):
    """What one step of all E environments brought."""

    rewards: np.ndarray  # [E] float32
    next_observations: np.ndarray  # [E, O] float32; at an episode's end its true last observation
    terminated: np.ndarray  # [E] bool
    truncated: np.ndarray  # [E] bool
    env_steps: int  # control steps taken by all environments together
    finished: list[EpisodeSummary]


def episode_seed(seed: int, env: int, episode: int) -> int:
    """The seed of one episode, below 2**32. It depends on nothing but the three numbers."""
    return int(np.random.SeedSequence(seed, spawn_key=(env, episode)).generate_state(1, np.uint32)[0])


class Driver:
    """Steps environments together, begins their episodes, and writes what happens to a replay.

    Environment e behaves the same alone or among others: its n-th episode is seeded by (seed, e, n) alone.

    Attributes:
        observations: [E, O] float32, what the next action of each environment answers. A new array at every step, so
            that it may be kept.
        is_first: [E] bool, true where that observation begins an episode.
    """

    observations: np.ndarray
    is_first: np.ndarray

    def __init__(self, envs: Sequence[gymnasium.Env], seed: int, replay: Recorder | None = None) -> None:
        """
        Args:
            envs: environments with equal flat spaces; the driver owns their episodes from now on.
            seed: not negative.
            replay: receives a row per observation: at a reset the first observation with zero action and reward, then
                each observation with the action that led to it (SPEC section 2).

        Raises:
            ValueError: no environment, or their spaces differ.
        """
        if not envs:
            raise ValueError("a driver needs at least one environment")
        self.envs = tuple(envs)
        for env in self.envs[1:]:
            if (env.observation_space, env.action_space) != (envs[0].observation_space, envs[0].action_space):
                raise ValueError("the environments of one driver must have equal spaces")
        self.seed = seed
        self.replay = replay
        self._action_shape: tuple[int, ...] = envs[0].action_space.shape or ()
        observation_shape: tuple[int, ...] = envs[0].observation_space.shape or ()
        count = len(self.envs)
        self.observations = np.zeros((count, *observation_shape), np.float32)
        self.is_first = np.zeros(count, bool)
        self._next_episode = [0] * count
        self._started = False
        self._returns = [0.0] * count
        self._agent_steps = [0] * count
        self._env_steps = [0] * count

    def reset(self) -> None:
        """Begin the next episode of every environment (the first ones, the first time); running ones are dropped."""
        self.observations = np.empty_like(self.observations)
        self.is_first = np.zeros_like(self.is_first)
        for index in range(len(self.envs)):
            self._begin(index)
        self._started = True

    def step(self, actions: np.ndarray) -> StepResult:
        """Step every environment with its action; an episode that ends is followed by the next one's reset.

        Args:
            actions: [E, A], in each environment's action space.

        Raises:
            ValueError: the actions have another shape.
            RuntimeError: before `reset`.
        """
        if not self._started:
            raise RuntimeError("call reset() before step()")
        count = len(self.envs)
        actions = np.asarray(actions, np.float32)
        if actions.shape != (count, *self._action_shape):
            raise ValueError(f"actions have shape {(count, *self._action_shape)}, not {actions.shape}")
        rewards = np.empty(count, np.float32)
        next_observations = np.empty_like(self.observations)
        terminated, truncated = np.zeros(count, bool), np.zeros(count, bool)
        total_env_steps = 0
        finished: list[EpisodeSummary] = []
        self.observations = np.empty_like(self.observations)
        self.is_first = np.zeros_like(self.is_first)
        for index, env in enumerate(self.envs):
            observation, reward, terminal, limit, info = env.step(actions[index])
            env_steps = int(info.get("env_steps", 1))  # environments of other makers take one
            reward, is_last = float(reward), bool(terminal or limit)
            rewards[index], next_observations[index] = reward, observation
            terminated[index], truncated[index] = terminal, limit
            total_env_steps += env_steps
            self._returns[index] += reward
            self._agent_steps[index] += 1
            self._env_steps[index] += env_steps
            if self.replay is not None:
                self.replay.add(index, observation, actions[index], reward, bool(terminal), False, is_last)
            if is_last:
                finished.append(self._summary(index))
                self._begin(index)
            else:
                self.observations[index] = observation
        return StepResult(rewards, next_observations, terminated, truncated, total_env_steps, finished)

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores, as JSON: the number of each environment's next episode.

        The episodes that are running are not in it: after `load`, `reset` begins new ones. (An exact resume can run
        their actions again: an episode follows from its seed and its actions.)
        """
        return {"next_episode": list(self._next_episode)}

    def load(self, state: dict[str, Any]) -> None:
        """Continue the count of episodes where `state` was taken; call `reset` next.

        Raises:
            ValueError: it was taken with another number of environments.
        """
        episodes = [int(number) for number in state["next_episode"]]
        if len(episodes) != len(self.envs):
            raise ValueError(f"the state is of {len(episodes)} environments, this driver has {len(self.envs)}")
        self._next_episode = episodes
        self._started = False

    def _begin(self, index: int) -> None:
        """Reset one environment for its next episode."""
        observation, _ = self.envs[index].reset(seed=episode_seed(self.seed, index, self._next_episode[index]))
        self._next_episode[index] += 1
        self.observations[index] = observation
        self.is_first[index] = True
        self._returns[index], self._agent_steps[index], self._env_steps[index] = 0.0, 0, 0
        if self.replay is not None:
            self.replay.add(index, observation, np.zeros(self._action_shape, np.float32), 0.0, False, True, False)

    def _summary(self, index: int) -> EpisodeSummary:
        return EpisodeSummary(index, self._returns[index], self._agent_steps[index], self._env_steps[index])
