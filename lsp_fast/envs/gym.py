"""Gymnasium's own environments as ours: `gym:Pendulum-v1`, `gym:HalfCheetah-v5`."""

from __future__ import annotations

import difflib
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, flatdim

from lsp_fast.errors import LspFastError

PREFIX = "gym:"

EPISODE_ENV_STEPS = 1000
"""Where an environment sets no limit of its own."""


class GymEnv(gymnasium.Wrapper[np.ndarray, np.ndarray, Any, Any], gymnasium.utils.RecordConstructorArgs):
    """Flat float32 observations, actions in [-1, 1] mapped affinely to the environment's bounds, action repeat.

    One `step` is one agent step: up to `action_repeat` environment steps, their rewards summed;
    `info["env_steps"]` counts those really taken.
    """

    def __init__(self, env: gymnasium.Env, action_repeat: int) -> None:
        """
        Args:
            env: with a bounded one-dimensional Box of actions and observations that can be flattened.
            action_repeat: at least 1.

        Raises:
            LspFastError: spaces that cannot be learned with.
        """
        actions = env.action_space
        name = env.spec.id if env.spec else type(env.unwrapped).__name__
        if not isinstance(actions, Box) or not np.issubdtype(actions.dtype, np.floating):
            raise LspFastError(f"{PREFIX}{name} has actions {actions}; only continuous ones (a Box) can be learned")
        if not actions.is_bounded():
            raise LspFastError(f"{PREFIX}{name} has actions without bounds ({actions}), which cannot be mapped to ±1")
        try:
            size = flatdim(env.observation_space)
        except (NotImplementedError, ValueError) as error:
            raise LspFastError(
                f"{PREFIX}{name} has observations {env.observation_space}, which have no fixed number of entries"
            ) from error
        gymnasium.utils.RecordConstructorArgs.__init__(self, action_repeat=action_repeat)
        super().__init__(gymnasium.wrappers.FlattenObservation(env))
        self.max_env_steps = env.spec.max_episode_steps if env.spec else None
        self._action_repeat = action_repeat
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = Box(-1.0, 1.0, (flatdim(actions),), np.float32)
        # Not RescaleAction, which maps in the bounds' own float32: an action of 1 can then miss the bound, and every
        # curve so far was made with this.
        self._centre = (actions.low.astype(np.float64) + actions.high) / 2
        self._scale = (actions.high.astype(np.float64) - actions.low) / 2

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        observation, info = self.env.reset(seed=seed, options=options)
        return np.asarray(observation, np.float32), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        action = np.asarray(action, np.float64)
        if action.shape != self.action_space.shape:
            raise ValueError(f"an action has shape {self.action_space.shape}, not {action.shape}")
        if not np.isfinite(action).all():
            raise ValueError(f"action is not finite: {action.tolist()}")
        own = self._centre + self._scale * np.clip(action, -1.0, 1.0).reshape(self._centre.shape)
        own = own.astype(self.env.action_space.dtype)
        total, taken, terminated, truncated = 0.0, 0, False, False
        observation, info = None, {}
        while taken < self._action_repeat and not (terminated or truncated):
            observation, reward, terminated, truncated, info = self.env.step(own)
            total, taken = total + float(reward), taken + 1
        info = {**info, "env_steps": taken}
        return np.asarray(observation, np.float32), total, bool(terminated), bool(truncated), info


def make(task: str, *, action_repeat: int = 2, seed: int = 0) -> GymEnv:
    """The registered environment after `gym:`; `lsp_fast.envs.make` documents arguments and errors."""
    name = task.removeprefix(PREFIX)
    try:
        env = gymnasium.make(name, disable_env_checker=True)
    except (gymnasium.error.Error, ImportError, ModuleNotFoundError) as error:
        near = difflib.get_close_matches(name, gymnasium.registry, n=3, cutoff=0.4)
        unknown = near and name not in gymnasium.registry
        hint = f"; the nearest are {', '.join(PREFIX + n for n in near)}" if unknown else ""
        raise LspFastError(f"cannot make task {task!r}: {error}{hint}") from error
    if env.spec is None or env.spec.max_episode_steps is None:
        # One that never ends would never be learned from: only whole episodes are.
        env = gymnasium.wrappers.TimeLimit(env, EPISODE_ENV_STEPS)
    try:
        wrapped = GymEnv(env, action_repeat)
    except LspFastError:
        env.close()
        raise
    wrapped.reset(seed=seed)
    return wrapped
