"""dm_control tasks as gymnasium environments (SPEC section 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import gymnasium
import numpy as np
from dm_control.rl.control import PhysicsError

from lsp_fast.envs import gl

if TYPE_CHECKING:
    import dm_env

EPISODE_ENV_STEPS = 1000
"""Suite episodes are 1000 environment steps. Every suite task but lqr says so itself; lqr would never end."""

UNBOUNDED = 1e9
"""Beyond it a bound means "none": dm_control gives an actuator without limits ±1e10."""


class Advance(NamedTuple):
    """What the control steps of one agent step brought."""

    observation: np.ndarray | None  # float32 [O]; None where the simulation diverged
    reward: float  # the sum, without a step that diverged
    env_steps: int  # control steps taken, with a step that diverged
    states: np.ndarray  # what `StepInfo` wants of them, float64 [T, S or more], without a step that diverged
    last: bool = False  # the task itself ended the episode
    terminated: bool = False


HINGE = 3
"""MuJoCo's number of this type of joint."""


class Pose(NamedTuple):
    """Where a robot is and how it is bent."""

    root: np.ndarray  # [3], metres: the body that the first joint moves
    joints: np.ndarray  # [J], radians: every hinge


class StepInfo(NamedTuple):
    """What an environment puts into `info` of every control step.

    `lsp_fast.experience.relabel.extras` makes of it the numbers that a replay keeps with a row.
    """

    state: Callable[[], np.ndarray]  # now, float64 [S], a new array
    info: Callable[[np.ndarray], dict[str, Any]]  # entries of `info` from states [T, S or more], the first S of each


NO_STEP_INFO = StepInfo(lambda: np.empty(0), lambda states: {})


class DmcEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A dm_env environment (dm_control's or our own) with flat observations, normalised actions and action repeat.

    Observation: float32 [O], the task's entries in its own order, each flattened (a scalar counts 1).
    Action: float32 [A] in [-1, 1], clipped, then mapped affinely to the task's bounds; an actuator without bounds
    takes it as it is. One `step` is one agent step: up to `action_repeat` environment (control) steps.

    The environment ends by termination where its discount is 0; a time limit truncates. So does a simulation that
    diverges (bad positions, velocities or accelerations, full buffers): the step's result is then the observation
    before it, the reward of the control steps before the one that diverged, and `info["diverged"] = True`.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    releases_gil: bool = False
    """Whether `step` spends its time without the interpreter's lock, enough of it that threads gain."""

    def __init__(
        self,
        environment: dm_env.Environment,
        random_state: np.random.RandomState,
        *,
        action_repeat: int = 2,
        seed: int = 0,
        max_env_steps: int | None = None,
        step_info: StepInfo = NO_STEP_INFO,
        camera: int = 0,
    ) -> None:
        """
        Args:
            environment: the task.
            random_state: the very generator that the task draws from. It is how an episode is seeded without reaching
                into the task.
            action_repeat: environment steps per agent step.
            seed: of the first episode, unless `reset` names another.
            max_env_steps: truncate an episode after so many environment steps; None leaves it to the task. It stays
                readable under this name.
            step_info: gives `info` more entries, at resets (of the state that the episode begins in) and steps.
            camera: number of the model's camera that `render_frame` looks through.

        Attributes:
            entries: the observation's, their widths by name, in their order.
            action_bounds: low and high, float64 [A], that -1 and 1 are mapped to; ±1 of an actuator without bounds.
            actuators: names of the action's numbers, in their order; None where they have none.
            step_seconds: simulated time of an agent step; None where the task does not say.
        """
        if action_repeat < 1:
            raise ValueError(f"action_repeat must be at least 1, not {action_repeat}")
        self._environment = environment
        self._random_state = random_state
        self._random_state.seed(seed)
        self._action_repeat = action_repeat
        self.max_env_steps = max_env_steps
        self._step_info = step_info
        self._camera = camera
        self._frames: gl.Frames | None = None
        self._episode_env_steps = 0
        self._running = False
        self._observation = np.empty(0, np.float32)  # the newest, for a step that has none

        # dm_env types its specs as nested anything; a suite task has a mapping here and one array there.
        entries: Any = environment.observation_spec()
        spec: Any = environment.action_spec()
        self.entries = {name: int(np.prod(entry.shape)) for name, entry in entries.items()}
        size = sum(self.entries.values())
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, spec.shape, np.float32)
        low = np.broadcast_to(spec.minimum, spec.shape).astype(np.float64)
        high = np.broadcast_to(spec.maximum, spec.shape).astype(np.float64)
        bounded = (np.abs(low) < UNBOUNDED) & (np.abs(high) < UNBOUNDED)
        # Centre and scale, rather than low + share * range: bounds of ±1 then pass an action through to the bit.
        self._centre = np.where(bounded, (low + high) / 2, 0.0)
        self._scale = np.where(bounded, (high - low) / 2, 1.0)
        self.action_bounds = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        physics: Any = getattr(environment, "physics", None)  # dm_env's has none, a suite task does
        names = [] if physics is None else [physics.model.id2name(i, "actuator") for i in range(physics.model.nu)]
        self.actuators = names if all(names) and len(names) == self._scale.size else None
        timestep = getattr(environment, "control_timestep", None)
        self.step_seconds = None if timestep is None else float(timestep()) * action_repeat

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode: (observation float32 [O], info: empty but for `step_info`'s).

        With a seed (0 to 2**32 - 1) the episode depends on it and the actions alone; without one it goes on from
        the episodes before.
        """
        super().reset(seed=seed)  # gymnasium wants its own generator seeded too; nothing here draws from it
        if seed is not None:
            self._random_state.seed(seed)
        self._episode_env_steps = 0
        self._running = True
        self._observation = flatten(self._environment.reset().observation)
        return self._observation.copy(), self._step_info.info(self._step_info.state()[None])

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One agent step: (observation float32 [O], summed reward, terminated, truncated, info).

        `info["env_steps"]` counts the control steps really taken, fewer than `action_repeat` where the episode ended.
        `info["diverged"]` is there, and True, where the simulation diverged.

        Raises:
            ValueError: the action has another shape or is not finite.
            gymnasium.error.ResetNeeded: no episode is running.
        """
        return self._finish(self._advance(*self._prepare(action)))

    def pose(self) -> Pose:
        """Where the robot is and how it is bent, now."""
        physics = cast(Any, self._environment).physics  # dm_env's has none, a suite task does
        model, data = physics.model, physics.data
        root = int(model.jnt_bodyid[0]) if model.njnt else 0
        hinges = model.jnt_qposadr[model.jnt_type == HINGE]
        return Pose(np.array(data.xpos[root]), np.array(data.qpos[hinges]))

    def render_frame(self, width: int, height: int) -> np.ndarray:
        """What the task's camera sees now, whatever is observed: uint8 [height, width, 3], a new array.

        Raises:
            LspFastError: there is no OpenGL, or it does not work.
        """
        if self._frames is None:
            self._frames = gl.Frames(cast(Any, self._environment).physics, self._camera)  # dm_env's has no physics
        return self._frames.draw(width, height)

    def close(self) -> None:
        if self._frames is not None:
            self._frames.close()
        self._environment.close()

    def _prepare(self, action: np.ndarray) -> tuple[np.ndarray, int]:
        """The task's own control, float64 [A], and how many control steps are to take it."""
        if not self._running:
            raise gymnasium.error.ResetNeeded("no episode is running: call reset() before step()")
        control = self._control(action)
        if self.max_env_steps is None:
            return control, self._action_repeat
        return control, min(self._action_repeat, self.max_env_steps - self._episode_env_steps)

    def _finish(self, advance: Advance) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """What `step` returns."""
        observation, reward, env_steps, states, over, terminated = advance
        self._episode_env_steps += env_steps
        info: dict[str, Any] = {"env_steps": env_steps, **self._step_info.info(states)}
        if observation is None:
            over = info["diverged"] = True
        else:
            self._observation = observation
        over = over or self._episode_env_steps == self.max_env_steps
        self._running = not over
        return self._observation.copy(), reward, terminated, over and not terminated, info

    def _advance(self, control: np.ndarray, repeats: int) -> Advance:
        """Up to `repeats` control steps with one control, float64 [A]."""
        total, states = 0.0, np.empty((repeats, self._step_info.state().size))
        for taken in range(1, repeats + 1):
            try:
                timestep = self._environment.step(control)
            except PhysicsError:
                return Advance(None, total, taken, states[: taken - 1])
            total += float(timestep.reward)  # type: ignore[arg-type]  # only a reset has none
            states[taken - 1] = self._step_info.state()
            # After its last step dm_control resets silently, with reward None: the loop must end here.
            if timestep.last() or taken == repeats:
                last = timestep.last()
                terminated = last and timestep.discount == 0.0
                return Advance(flatten(timestep.observation), total, taken, states[:taken], last, terminated)
        raise ValueError("no control step to take")

    def _control(self, action: np.ndarray) -> np.ndarray:
        """The task's own control, float64 [A]."""
        action = np.asarray(action, np.float64)
        if action.shape != self.action_space.shape:
            raise ValueError(f"an action has shape {self.action_space.shape}, not {action.shape}")
        if not np.isfinite(action).all():
            raise ValueError(f"action is not finite: {action.tolist()}")
        return self._centre + self._scale * action.clip(-1.0, 1.0)


def flatten(observation: Mapping[str, Any]) -> np.ndarray:
    """The entries in their order, each flattened: float32 [O], a new array."""
    return np.concatenate([np.ravel(entry) for entry in observation.values()], dtype=np.float32, casting="same_kind")
