"""Gymnasium's own environments as ours: `gym:Pendulum-v1`, `gym:HalfCheetah-v5`."""

from __future__ import annotations

import difflib
import os
import warnings
from contextlib import suppress
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space, flatdim, flatten

from lsp_fast.envs import gl
from lsp_fast.envs.answers import check
from lsp_fast.envs.observing import RENDER, Observing, drawn
from lsp_fast.errors import LspFastError

PREFIX = "gym:"

EPISODE_ENV_STEPS = 1000
"""Where an environment sets no limit of its own."""


class GymEnv(gymnasium.Wrapper[np.ndarray, np.ndarray, Any, Any], gymnasium.utils.RecordConstructorArgs):
    """Flat float32 observations, frames or both, actions in [-1, 1] mapped affinely to the environment's bounds, action
    repeat.

    One `step` is one agent step: up to `action_repeat` environment steps, their rewards summed;
    `info["env_steps"]` counts those really taken.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        action_repeat: int,
        task: str | None = None,
        *,
        obs: str = "features",
        vectors: str = "auto",
        frame: str = "auto",
        resize: bool = False,
    ) -> None:
        """
        Args:
            env: with a bounded Box of actions and observations that can be flattened; where its frame is to be drawn,
                made with `render_mode="rgb_array"`.
            action_repeat: at least 1.
            task: names it in messages.
            obs, vectors, frame, resize: as of `lsp_fast.envs.make`.

        Attributes:
            observed: sizes of an observation.
            observes: what is seen of the environment's own observation, in a line; None where all is.
            own_space: of the numbers that are observed, before they are flattened; of frames alone the environment's.
            action_bounds: low and high that -1 and 1 are mapped to: float64, in the shape of its own actions.

        Raises:
            LspFastError: spaces that cannot be learned with.
        """
        actions = env.action_space
        task = task or PREFIX + (env.spec.id if env.spec else type(env.unwrapped).__name__)
        if isinstance(actions, Discrete | MultiDiscrete | MultiBinary):
            raise LspFastError(
                f"{task} has discrete actions {actions}; only continuous ones (a Box) can be learned: wrap it in a "
                f"gymnasium.ActionWrapper whose action_space is Box(-1, 1, ({_choices(actions)},)) and which takes the "
                'largest entry (docs/adding-a-task.md, "Discrete actions")'
            )
        if not isinstance(actions, Box) or not np.issubdtype(actions.dtype, np.floating):
            raise LspFastError(f"{task} has actions {actions}; only continuous ones (a Box) can be learned")
        if not actions.is_bounded():
            raise LspFastError(f"{task} has actions without bounds ({actions}), which cannot be mapped to ±1")
        self._observing = Observing(env.observation_space, task, obs, vectors, frame, resize)
        gymnasium.utils.RecordConstructorArgs.__init__(
            self, action_repeat=action_repeat, task=task, obs=obs, vectors=vectors, frame=frame, resize=resize
        )
        super().__init__(env)
        self.max_env_steps = env.spec.max_episode_steps if env.spec else None
        self.name = task
        self._action_repeat, self.own_space = action_repeat, self._observing.numbers or env.observation_space
        self.observed = self._observing.observed
        self.observes = str(self._observing) if self._observing.chosen else None
        if self.observed.frame is None:
            self.observation_space = Box(-np.inf, np.inf, self.observed.shape, np.float32)
        else:
            self.observation_space = Box(0, 255, self.observed.shape, np.uint8)
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
        return self._seen(observation), info

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
        return self._seen(observation), total, terminated, truncated, info

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

    def _seen(self, observation: Any) -> np.ndarray:
        """What is observed: a new array, as an environment may reuse its own."""
        numbers, frame = self._observing.numbers, self._observing.frame
        if frame is None:
            return self._flat(numbers, observation)
        if frame == RENDER:
            picture = self._drawn()
        else:
            try:
                picture = observation[frame] if frame else observation
            except (KeyError, TypeError) as error:
                raise self._misfit(
                    f"an observation has no entry {frame!r}", "return observations of its observation_space"
                ) from error
        picture = self._observing.picture(picture)
        if numbers is None:
            return picture
        return self.observed.pack({"frame": picture, "vector": self._flat(numbers, observation)})

    def _drawn(self) -> Any:
        """What the environment draws."""
        try:
            return self.env.render()
        except Exception as error:  # an environment may raise anything
            raise LspFastError(
                f"{self.name}: render() raised {type(error).__name__}: {error}; frames come from there where "
                "--observation.frame is render, or the task observes none of its own"
            ) from error

    def _flat(self, space: Space | None, observation: Any) -> np.ndarray:
        """Flat float32, of the width that the space declares."""
        assert space is not None
        try:
            with np.errstate(over="ignore"):  # what becomes infinite is refused wherever the environment is stepped
                flat = np.array(flatten(space, observation), np.float32)
        except (KeyError, TypeError, ValueError) as error:
            what = "has no entry" if isinstance(error, KeyError) else "is no array of numbers:"
            raise self._misfit(
                f"an observation {what} {error}", "return observations of its observation_space"
            ) from error
        wanted = (self.observed.vector,)
        if flat.shape != wanted:
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


def _choices(actions: Discrete | MultiDiscrete | MultiBinary) -> int:
    """How many numbers say which of all discrete actions to take: one for each."""
    if isinstance(actions, Discrete):
        return int(actions.n)
    return int(np.sum(actions.nvec)) if isinstance(actions, MultiDiscrete) else flatdim(actions)


def _made(task: str, **options: Any) -> gymnasium.Env:
    """The registered environment itself."""
    name = task.removeprefix(PREFIX)
    try:
        return gymnasium.make(name, disable_env_checker=True, **options)
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
        if options:
            hint = '; its frames are to be drawn, which needs one that takes render_mode="rgb_array"'
        raise LspFastError(f"cannot make task {task!r}: {what}{hint}") from error


def make(task: str, *, action_repeat: int = 2, seed: int = 0, obs: str = "features", **seen: Any) -> GymEnv:
    """The registered environment after `gym:`; `lsp_fast.envs.make` documents arguments and errors."""
    env = _made(task)
    if obs != "features" and drawn(env.observation_space, seen.get("frame", "auto")):
        _close(env)  # there may be only one
        if os.environ.get("MUJOCO_GL", "disable") == "disable":  # nobody's choice, or that of features
            with suppress(LspFastError):  # one that draws without OpenGL needs none
                os.environ["MUJOCO_GL"] = gl.choose()
        gl.before_loading()
        env = _made(task, render_mode="rgb_array")
    if env.spec is None or env.spec.max_episode_steps is None:
        # One that never ends would never be learned from: only whole episodes are.
        warnings.warn(
            f"{task} registers no max_episode_steps: its episodes end after {EPISODE_ENV_STEPS} environment steps "
            "at the latest; register another number where they are longer",
            stacklevel=2,
        )
        env = gymnasium.wrappers.TimeLimit(env, EPISODE_ENV_STEPS)
    try:
        wrapped = GymEnv(env, action_repeat, task, obs=obs, **seen)
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
