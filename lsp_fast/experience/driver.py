"""Several environments, stepped together (SPEC sections 1 and 2)."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, NamedTuple, Protocol, SupportsFloat, cast

import gymnasium
import numpy as np

from lsp_fast import machine
from lsp_fast.envs.answers import ask, check
from lsp_fast.errors import EnvironmentFailed

Outcome = tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]
"""What an environment's `step` returns."""


class InParts(Protocol):
    """An environment whose `step` comes in three parts, of which the second does not hold the interpreter's lock."""

    def begin(self, action: np.ndarray) -> None: ...
    def run(self) -> None: ...
    def finish(self) -> Outcome: ...


class Recorder(Protocol):
    """Where a driver writes its rows; `lsp_fast.experience.replay.Replay` is one, and its `add` says what a row is."""

    add: Callable[..., None]


class EpisodeSummary(NamedTuple):
    """One finished episode."""

    env: int
    episode_return: float
    success: bool | None = None
    """Whether the task's goal was reached at any step; None where the task has none."""


class StepResult(NamedTuple):
    """What one step of all E environments brought; the rows themselves go to the recorder."""

    env_steps: int  # control steps taken by all environments together
    finished: list[EpisodeSummary]


def episode_seed(seed: int, env: int, episode: int) -> int:
    """The seed of one episode, below 2**32. It depends on nothing but the three numbers."""
    return int(np.random.SeedSequence(seed, spawn_key=(env, episode)).generate_state(1, np.uint32)[0])


class Driver:
    """Steps environments together, begins their episodes, and writes what happens to a replay.

    Environment e behaves the same alone or among others: its n-th episode is seeded by (seed, e, n) alone.

    Environments that have `releases_gil = True`, and so the parts of `InParts`, are stepped by several threads. Nothing
    but the time depends on it: what all bring is recorded afterwards, in the order of the environments. So it is with
    those of other processes (`lsp_fast.experience.workers`), which one thread asks and waits for.

    Environments of other makers say nothing of `releases_gil`. They stay on the caller's thread, as some may be used by
    the thread alone that made them: an OpenGL context, sqlite, Gazebo.

    An environment that raises or gives a number that is not finite is an `EnvironmentFailed`. Nothing of that step is
    recorded, and the running episodes are given up: `state` is then of the beginnings of the next ones.

    Attributes:
        observations: [E, O] float32; of pixels [E, 64, 64, 3] uint8; of both bytes [E, ...] (`lsp_fast.observed`): what
            the next action of each environment answers. A new array at every step, so that it may be kept.
        is_first: [E] bool, true where that observation begins an episode.
    """

    observations: np.ndarray
    is_first: np.ndarray

    def __init__(
        self,
        envs: Sequence[gymnasium.Env],
        seed: int,
        replay: Recorder | None = None,
        *,
        threads: int | None = None,
        info_extras: Callable[[dict[str, Any]], np.ndarray] | None = None,
        extras_dim: int = 0,
    ) -> None:
        """
        Args:
            envs: environments with equal spaces; the driver owns their episodes from now on.
            seed: not negative.
            replay: receives a row per observation: at a reset the first observation with zero action and reward, then
                each observation with the action that led to it (SPEC section 2).
            threads: that step the environments, the caller's among them; None takes one a processor. Never more than
                environments, and one where an environment does not have `releases_gil = True`.
            info_extras: what of an environment's `info` the replay is to keep with a row.
            extras_dim: or else how many numbers of the caller's own, which `step` is given.

        Raises:
            ValueError: no environment, their spaces differ, or less than one thread.
        """
        if not envs:
            raise ValueError("a driver needs at least one environment")
        if threads is None:
            threads = machine.cores()
        elif threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        self.envs = tuple(envs)
        for env in self.envs[1:]:
            if (env.observation_space, env.action_space) != (envs[0].observation_space, envs[0].action_space):
                raise ValueError("the environments of one driver must have equal spaces")
        self.seed = seed
        self.replay = replay
        self._action_shape: tuple[int, ...] = envs[0].action_space.shape or ()
        observation_shape: tuple[int, ...] = envs[0].observation_space.shape or ()
        count = len(self.envs)
        free = all(getattr(env, "releases_gil", False) for env in self.envs)
        elsewhere = any(getattr(env, "elsewhere", False) for env in self.envs)
        self._threads = min(threads, count) if free and not elsewhere else 1
        self._in_parts = self._threads > 1 or elsewhere
        self._stays = not all(hasattr(env, "releases_gil") for env in self.envs)
        self._pool: tuple[int, ThreadPoolExecutor] | None = None  # with the process it lives in
        self.observations = np.zeros((count, *observation_shape), envs[0].observation_space.dtype)
        self.is_first = np.zeros(count, bool)
        self._next_episode = [0] * count
        self._started = False
        self._returns = [0.0] * count
        self._actions: list[list[np.ndarray]] = [[] for _ in range(count)]
        self._success: list[bool | None] = [None] * count
        self._seen: list[int | None] = [None] * count  # a checksum of what the running episode gave
        self._info_extras = info_extras
        self._extras_dim = extras_dim
        self._running_extras: list[list[np.ndarray]] = [[] for _ in range(count)]

    def reset(self) -> None:
        """Begin the next episode of every environment (the first ones, the first time); running ones are dropped."""
        self.observations = np.empty_like(self.observations)
        self.is_first = np.zeros_like(self.is_first)
        for index in range(len(self.envs)):
            self._begin(index)
        self._started = True

    def step(
        self,
        actions: np.ndarray,
        meanwhile: Callable[[], object] | None = None,
        extras: np.ndarray | None = None,
    ) -> StepResult:
        """Step every environment with its action; an episode that ends is followed by the next one's reset.

        Args:
            actions: [E, A], in each environment's action space.
            meanwhile: called while the environments step on a thread of their own; before they step, where they must
                stay on this one. Nothing is recorded before it has returned, so that it sees the replay as it was.
            extras: [E, extras_dim], numbers that the replay is to keep with this step; zeros if None.

        Raises:
            ValueError: the actions have another shape, or are not finite.
            RuntimeError: before `reset`.
            EnvironmentFailed: one of them did.
        """
        if not self._started:
            raise RuntimeError("call reset() before step()")
        count = len(self.envs)
        actions = np.asarray(actions, np.float32)
        if actions.shape != (count, *self._action_shape):
            raise ValueError(f"actions have shape {(count, *self._action_shape)}, not {actions.shape}")
        if not np.isfinite(actions).all():
            raise ValueError(f"actions are not finite: {actions.tolist()}")
        try:
            return self._recorded(actions, self._step_beside(actions, meanwhile), extras)
        except EnvironmentFailed:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Give up the running episodes: `state` is then of the beginnings of the next ones, and `reset` begins them."""
        count = len(self.envs)
        self._next_episode = [number + 1 for number in self._next_episode]
        self._actions, self._running_extras = [[] for _ in range(count)], [[] for _ in range(count)]
        self._seen = [None] * count
        self._started = False

    def _recorded(self, actions: np.ndarray, outcomes: list[Outcome], extras: np.ndarray | None) -> StepResult:
        """Record what every environment brought, and begin the episodes after those that are over."""
        for index, (observation, reward, *_) in enumerate(outcomes):
            check(self.envs[index], index, len(self._actions[index]) + 1, observation, float(reward))
        total_env_steps = 0
        finished: list[EpisodeSummary] = []
        self.observations = np.empty_like(self.observations)
        self.is_first = np.zeros_like(self.is_first)
        for index, outcome in enumerate(outcomes):
            own = None if extras is None else extras[index]
            self.observations[index], over, env_steps = self._record(index, actions[index], outcome, own)
            total_env_steps += env_steps
            if over:
                finished.append(EpisodeSummary(index, self._returns[index], self._success[index]))
        for episode in finished:
            self._begin(episode.env)
        return StepResult(total_env_steps, finished)

    def state(self) -> dict[str, Any]:
        """What `load` goes on from: the number of each environment's next episode, and the actions of its running one.

        An episode follows from its seed and its actions, whatever the environment keeps inside; actions are [T, A].
        The caller's extras are there too, [T, extras_dim], and for `load` to compare a checksum of what the episode
        gave so far: None where it was given up.
        """
        return {
            "next_episode": list(self._next_episode),
            "actions": [np.array(actions, np.float32).reshape(-1, *self._action_shape) for actions in self._actions],
            "extras": [np.array(rows, np.float32).reshape(-1, self._extras_dim) for rows in self._running_extras]
            if self._extras_dim
            else [],
            "seen": list(self._seen),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Bring every environment where `state` was taken, by playing its running episode again.

        An episode that does not repeat itself is dropped with a warning, and the next one begun.

        Raises:
            ValueError: it was taken with another number of environments.
            EnvironmentFailed: one of them did.
        """
        count = len(self.envs)
        if len(state["next_episode"]) != count:
            raise ValueError(f"the state is of {len(state['next_episode'])} environments, this driver has {count}")
        self._next_episode = [int(number) - 1 for number in state["next_episode"]]
        self.reset()
        for index, actions in enumerate(state["actions"]):
            actions = np.asarray(actions, np.float32)
            # States from before there were checksums are believed.
            outcomes = self._replayed(index, actions, state["seen"][index] if state.get("seen") else None)
            if outcomes is None:
                warnings.warn(
                    f"{getattr(self.envs[index], 'name', f'environment {index}')}: the running episode did not repeat "
                    "itself; it is dropped and another one begun. The task draws from another generator than "
                    "self.np_random, or keeps something between episodes: such runs go on, but not to the bit",
                    stacklevel=2,
                )
                self._begin(index)
                continue
            for t, (action, outcome) in enumerate(zip(actions, outcomes, strict=True)):
                own = np.asarray(state["extras"][index][t], np.float32) if self._extras_dim else None
                self.observations[index], _, _ = self._record(index, action, outcome, own)
                self.is_first[index] = False

    def _replayed(self, index: int, actions: np.ndarray, seen: int | None) -> list[Outcome] | None:
        """What an episode that has just begun gives for its actions [T, A]; nothing of it is recorded.

        None where it ends before they do, or gives something else than `seen` is the checksum of.
        """
        env, outcomes, checksum = self.envs[index], [], self._seen[index]
        for t, action in enumerate(actions, 1):
            outcome = ask(env, index, t, env.step, action)
            observation, reward, terminal, limit, _ = outcome
            check(env, index, t, observation, float(reward))
            if terminal or limit:
                return None
            outcomes.append(outcome)
            checksum = _checksum(observation, float(reward), checksum)
        return outcomes if seen is None or checksum == seen else None

    def _step_beside(self, actions: np.ndarray, meanwhile: Callable[[], object] | None) -> list[Outcome]:
        """`_step_all`, with something else going on at the same time."""
        if meanwhile is None or self._stays:
            # What is learned first may still be under way, on a GPU.
            if meanwhile is not None:
                meanwhile()
            return self._step_all(actions)
        stepping = self._executor().submit(self._step_all, actions)
        try:
            meanwhile()
        finally:
            wait([stepping])
        return stepping.result()

    def _step_all(self, actions: np.ndarray) -> list[Outcome]:
        """Step every environment; nothing of it is recorded yet."""
        if not self._in_parts:
            return [
                self._ask(i, env.step, action) for i, (env, action) in enumerate(zip(self.envs, actions, strict=True))
            ]
        envs = cast(Sequence[InParts], self.envs)
        for index, (env, action) in enumerate(zip(envs, actions, strict=True)):
            self._ask(index, env.begin, action)

        remaining = iter(enumerate(envs))

        def run_some() -> None:
            for index, env in remaining:  # each is taken by one thread: the interpreter's lock guards the iterator
                self._ask(index, env.run)

        # Threads only run: Python code in several of them would make each wait for the others at every turn.
        others = [self._executor().submit(run_some) for _ in range(self._threads - 1)]
        try:
            run_some()
        finally:
            started = [other for other in others if not other.cancel()]  # one that slept too long is not waited for
            wait(started)
        for other in started:
            other.result()
        return [self._ask(index, env.finish) for index, env in enumerate(envs)]

    def _ask(self, index: int, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        return ask(self.envs[index], index, len(self._actions[index]) + 1, call, *given, **named)

    def _executor(self) -> ThreadPoolExecutor:
        """The threads beside the caller's, and one to step beside it: begun when first needed, and anew in a forked
        process, which has none."""
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(self._threads, "lsp-env")
        return self._pool[1]

    def _record(
        self, index: int, action: np.ndarray, outcome: Outcome, own: np.ndarray | None
    ) -> tuple[np.ndarray, bool, int]:
        """Record one environment's step: its observation, whether the episode is over, and environment steps."""
        observation, reward, terminal, limit, info = outcome
        env_steps = int(info.get("env_steps", 1))  # environments of other makers take one
        reward, terminal, limit = float(reward), bool(terminal), bool(limit)
        self._actions[index].append(action.copy())
        extras = self._extras(info, own)
        if self._extras_dim:
            self._running_extras[index].append(extras[0])
        self._returns[index] += reward
        self._seen[index] = _checksum(observation, reward, self._seen[index])
        if "success" in info:
            self._success[index] = bool(self._success[index] or info["success"])
        if self.replay is not None:
            self.replay.add(index, observation, action, reward, terminal, False, terminal or limit, *extras)
        return observation, terminal or limit, env_steps

    def _begin(self, index: int) -> None:
        """Reset one environment for its next episode."""
        seed = episode_seed(self.seed, index, self._next_episode[index])
        self._next_episode[index] += 1  # first: an episode that cannot be begun is not tried again
        self._actions[index], self._running_extras[index] = [], []
        observation, info = ask(self.envs[index], index, 0, self.envs[index].reset, seed=seed)
        check(self.envs[index], index, 0, observation, 0.0)
        self._seen[index] = _checksum(observation, 0.0)
        self.observations[index] = observation
        self.is_first[index] = True
        self._returns[index] = 0.0
        self._success[index] = bool(info["success"]) if "success" in info else None
        if self.replay is not None:
            still = np.zeros(self._action_shape, np.float32)
            self.replay.add(index, observation, still, 0.0, False, True, False, *self._extras(info))

    def _extras(self, info: dict[str, Any], own: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        """What the replay keeps with a row, if anything."""
        if self._extras_dim:
            return (np.zeros(self._extras_dim, np.float32) if own is None else np.array(own, np.float32),)
        return () if self._info_extras is None else (self._info_extras(info),)


def _checksum(observation: np.ndarray, reward: float, before: int | None = None) -> int:
    """Of a step, and of all before it."""
    return zlib.crc32(struct.pack("d", reward), zlib.crc32(observation.tobytes(), before or 0))
