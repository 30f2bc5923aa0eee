"""Gymnasium's own environments as ours: `gym:Pendulum-v1`, `gym:HalfCheetah-v5`."""

from __future__ import annotations

import difflib
import warnings
from contextlib import suppress
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, flatdim, flatten

from lsp_fast.envs.answers import check
from lsp_fast.errors import LspFastError

PREFIX = "gym:"

EPISODE_ENV_STEPS = 1000
"""Where an environment sets no limit of its own."""


class GymEnv(gymnasium.Wrapper[np.ndarray, np.ndarray, Any, Any], gymnasium.utils.RecordConstructorArgs):
    """Flat float32 observations, actions in [-1, 1] mapped affinely to the environment's bounds, action repeat.

    One `step` is one agent step: up to `action_repeat` environment steps, their rewards summed;
    `info["env_steps"]` counts those really taken.
    """

    def __init__(self, env: gymnasium.Env, action_repeat: int, task: str | None = None) -> None:
        """
        Args:
            env: with a bounded one-dimensional Box of actions and observations that can be flattened.
            action_repeat: at least 1.
            task: names it in messages.

        Attributes:
            own_space: the observations' before they are flattened.
            action_bounds: low and high that -1 and 1 are mapped to: float64, in the shape of its own actions.

        Raises:
            LspFastError: spaces that cannot be learned with.
        """
        actions = env.action_space
        task = task or PREFIX + (env.spec.id if env.spec else type(env.unwrapped).__name__)
        if not isinstance(actions, Box) or not np.issubdtype(actions.dtype, np.floating):
            raise LspFastError(f"{task} has actions {actions}; only continuous ones (a Box) can be learned")
        if not actions.is_bounded():
            raise LspFastError(f"{task} has actions without bounds ({actions}), which cannot be mapped to ±1")
        try:
            size = flatdim(env.observation_space)
        except (NotImplementedError, ValueError) as error:
            raise LspFastError(
                f"{task} has observations {env.observation_space}, which have no fixed number of entries"
            ) from error
        gymnasium.utils.RecordConstructorArgs.__init__(self, action_repeat=action_repeat, task=task)
        super().__init__(env)
        self.max_env_steps = env.spec.max_episode_steps if env.spec else None
        self.name = task
        self._action_repeat, self.own_space = action_repeat, env.observation_space
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = Box(-1.0, 1.0, (flatdim(actions),), np.float32)
        self.action_bounds = tuple(x.astype(np.float64) for x in (actions.low, actions.high))
        # Not RescaleAction, which maps in the bounds' own float32: an action of 1 can then miss the bound, and every
        # curve so far was made with this.
        self._centre = (actions.low.astype(np.float64) + actions.high) / 2
        self._scale = (actions.high.astype(np.float64) - actions.low) / 2

    @property
    def entries(self) -> dict[str, int] | None:
        """The observation's entries, their widths by name, in their order; None where they have no names."""
        spaces = getattr(self.own_space, "spaces", None)
        return {name: flatdim(space) for name, space in spaces.items()} if isinstance(spaces, dict) else None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        try:
            result = self.env.reset(seed=seed, options=options)
        except OverflowError:
            # Simulators in C++ may take a signed seed of 32 bits.
            result = self.env.reset(seed=None if seed is None else seed % 2**31, options=options)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            raise self._misfit(f"reset() gave {_told(result)}", "return (observation, info), info being a dictionary")
        observation, info = result
        if "success" in info:
            info = {**info, "success": self._flag('info["success"]', info["success"])}
        return self._flat(observation), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        action = np.asarray(action, np.float64)
        if action.shape != self.action_space.shape:
            raise ValueError(f"an action has shape {self.action_space.shape}, not {action.shape}")
        if not np.isfinite(action).all():
            raise ValueError(f"action is not finite: {action.tolist()}")
        own = self._centre + self._scale * np.clip(action, -1.0, 1.0).reshape(self._centre.shape)
        own = own.astype(self.env.action_space.dtype)
        total, taken, success = 0.0, 0, None
        observation, terminated, truncated, info = None, False, False, {}
        while taken < self._action_repeat and not (terminated or truncated):
            # A copy: an environment may scale its action in place.
            observation, reward, terminated, truncated, info = self._outcome(self.env.step(own.copy()))
            total, taken = total + reward, taken + 1
            if "success" in info:  # at any of the steps
                success = self._flag('info["success"]', info["success"]) or bool(success)
        info = {**info, "env_steps": taken, **({} if success is None else {"success": success})}
        return self._flat(observation), total, terminated, truncated, info

    def _outcome(self, result: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """What `step` gave, as gymnasium wants it."""
        if not isinstance(result, tuple) or len(result) != 5 or not isinstance(result[4], dict):
            raise self._misfit(
                f"step() gave {_told(result)}",
                "return (observation, reward, terminated, truncated, info), info being a dictionary",
            )
        observation, reward, terminated, truncated, info = result
        ends = self._flag("terminated", terminated), self._flag("truncated", truncated)
        return observation, self._number("reward", reward), *ends, info

    def _flat(self, observation: Any) -> np.ndarray:
        """Flat float32, of the width that the space declares: a copy, as an environment may reuse its array."""
        try:
            with np.errstate(over="ignore"):  # what becomes infinite is refused wherever the environment is stepped
                flat = np.array(flatten(self.own_space, observation), np.float32)
        except (KeyError, TypeError, ValueError) as error:
            what = "has no entry" if isinstance(error, KeyError) else "is no array of numbers:"
            raise self._misfit(
                f"an observation {what} {error}", "return observations of its observation_space"
            ) from error
        if flat.shape != self.observation_space.shape:
            wanted = self.observation_space.shape
            raise self._misfit(f"an observation has shape {flat.shape}, its space {wanted}", "make the two agree")
        return flat

    def _number(self, name: str, value: Any) -> float:
        """A number, or an array of one."""
        try:
            return float(np.asarray(value).item())
        except (TypeError, ValueError) as error:
            raise self._misfit(f"{name} is {_told(value)}", "return one number") from error

    def _flag(self, name: str, value: Any) -> bool:
        """A truth, or an array of one."""
        return value if isinstance(value, bool) else bool(self._number(name, value))

    def _misfit(self, what: str, remedy: str) -> LspFastError:
        return LspFastError(f"{self.name}: {what}; {remedy}")


def _told(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, tuple):
        return f"{len(value)} values" if len(value) != 5 or isinstance(value[4], dict) else f"an info {value[4]!r}"
    return f"{type(value).__name__} {np.shape(value)}" if isinstance(value, np.ndarray) else repr(value)[:60]


def make(task: str, *, action_repeat: int = 2, seed: int = 0) -> GymEnv:
    """The registered environment after `gym:`; `lsp_fast.envs.make` documents arguments and errors."""
    name = task.removeprefix(PREFIX)
    try:
        env = gymnasium.make(name, disable_env_checker=True)
    except Exception as error:  # an environment's own constructor may raise anything
        registered = name.rpartition(":")[2]  # without the module that registers it
        near = difflib.get_close_matches(registered, gymnasium.registry, n=3, cutoff=0.4)
        unknown = near and registered not in gymnasium.registry
        hint = f"; the nearest are {', '.join(PREFIX + n for n in near)}" if unknown else ""
        what = (
            str(error)
            if isinstance(error, (gymnasium.error.Error, ImportError))
            else f"{type(error).__name__}: {error}"
        )
        raise LspFastError(f"cannot make task {task!r}: {what}{hint}") from error
    if env.spec is None or env.spec.max_episode_steps is None:
        # One that never ends would never be learned from: only whole episodes are.
        warnings.warn(
            f"{task} registers no max_episode_steps: its episodes end after {EPISODE_ENV_STEPS} environment steps "
            "at the latest; register another number where they are longer",
            stacklevel=2,
        )
        env = gymnasium.wrappers.TimeLimit(env, EPISODE_ENV_STEPS)
    try:
        wrapped = GymEnv(env, action_repeat, task)
    except BaseException:
        _close(env)
        raise
    try:
        # One step before anything else: what does not fit is said here, and not in the middle of a run.
        wrapped.reset(seed=seed)
        observation, reward, *_ = wrapped.step(np.zeros(wrapped.action_space.shape or ()))
        check(wrapped, 0, 1, observation, reward)
        wrapped.reset(seed=seed)
    except BaseException as error:
        _close(wrapped)
        if isinstance(error, LspFastError) or not isinstance(error, Exception):
            raise
        raise LspFastError(
            f"{task} cannot be stepped: {type(error).__name__}: {error}; reset(seed=None, options=None) must return "
            "(observation, info), and step(action) (observation, reward, terminated, truncated, info), of observations "
            "of its observation_space"
        ) from error
    return wrapped


def _close(env: gymnasium.Env) -> None:
    """It has failed already: what it says now would hide why."""
    with suppress(Exception):
        env.close()
