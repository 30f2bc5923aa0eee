"""Walkers, cheetah, hopper and quadrupeds without dm_control's Python in their steps, to the same bits.

dm_control builds and resets a task; then one compiled function without the interpreter's lock takes the control steps
of an agent step and gathers the observation, and the reward is the task's formula written out.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llvmlite.binding
import numba
import numpy as np

from lsp_fast.envs import quadruped
from lsp_fast.envs.dmc import NO_STEP_INFO, Advance, DmcEnv, StepInfo
from lsp_fast.envs.rewards import WALK_SPEED, ramp, reaching, walking
from lsp_fast.njit import njit

SUBSTEPS_WORTH_A_THREAD = 8
"""Of an agent step: they take 5 to 20 µs each, and handing a step to a thread 20 to 90. The cheetah has two."""

Reward = Callable[[list[float], np.ndarray], float]
"""The reward of one control step from a recipe's reward inputs and the control, float64 [A]."""


@dataclass(frozen=True)
class Recipe:
    """What a task's observation and reward are made of; elements are places in `memory`."""

    memory: np.ndarray
    """All arrays of the simulation as one, float64 [M]; lives as long as the simulation's data."""
    observation: np.ndarray
    """Elements of the observation in their order, int64 [O]."""
    inputs: np.ndarray
    """Elements that the reward is computed from, int64 [R]; they begin with the S of its `StepInfo`."""
    reward: Reward
    warp: Callable[[np.ndarray], np.ndarray] | None = None
    """Gives the observation from `warped` on; with NumPy's own functions, as others differ in the last bit."""
    warped: int = 0


class DirectEnv(DmcEnv):
    """`DmcEnv` for a task with a `Recipe`: the same spaces, episodes, observations and rewards, bit for bit.

    It steps as dm_control does by default: positions and velocities of the observation are up to date with the state,
    forces and accelerations are those of the substep before.

    MuJoCo's fatal errors (no memory left, not a diverging simulation) end the process here, with MuJoCo's message.
    """

    releases_gil: bool = True

    def __init__(
        self,
        environment: Any,
        random_state: np.random.RandomState,
        recipe: Recipe,
        *,
        max_env_steps: int,
        action_repeat: int = 2,
        seed: int = 0,
        step_info: StepInfo = NO_STEP_INFO,
        camera: int = 0,
    ) -> None:
        """
        Args:
            environment: dm_control's environment; it goes on resetting the task.
            random_state: as in `DmcEnv`.
            recipe: of this very environment.
            max_env_steps: truncate an episode after so many environment steps; no other limit is kept.
            action_repeat: environment steps per agent step.
            seed: of the first episode, unless `reset` names another.
            step_info, camera: as in `DmcEnv`.

        Raises:
            ValueError: the task steps in another way than the one built in here.
        """
        super().__init__(
            environment,
            random_state,
            action_repeat=action_repeat,
            seed=seed,
            max_env_steps=max_env_steps,
            step_info=step_info,
            camera=camera,
        )
        from dm_control.mujoco.wrapper.mjbindings import enums

        physics = environment.physics
        model, data = physics.model.ptr, physics.data.ptr
        if not physics.legacy_step or model.opt.integrator == enums.mjtIntegrator.mjINT_RK4:
            raise ValueError("the direct path steps as dm_control does by default, with any integrator but RK4")
        substeps = round(environment.control_timestep() / physics.timestep())
        self.releases_gil = substeps * action_repeat >= SUBSTEPS_WORTH_A_THREAD
        warnings: np.ndarray = data.warning.number
        self._recipe = recipe
        self._ctrl: np.ndarray = data.ctrl
        self._control_now: np.ndarray = self._ctrl
        self._repeats = self._completed = 0
        self._inputs = np.empty((action_repeat, len(recipe.inputs)))
        self._gathered = np.empty(len(recipe.observation))
        self._simulation = (
            *(model._address, data._address, substeps, warnings, np.empty_like(warnings)),
            *(recipe.memory, recipe.inputs, recipe.observation, self._inputs, self._gathered),
        )

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.begin(action)
        self.run()
        return self.finish()

    def begin(self, action: np.ndarray) -> None:
        """The first part of `step`: it raises what `step` raises."""
        self._control_now, self._repeats = self._prepare(action)
        self._ctrl[:] = self._control_now

    def run(self) -> None:
        """The second part: the simulation, without the interpreter's lock."""
        self._completed = _run(self._repeats, *self._simulation)

    def finish(self) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The third part: what `step` returns."""
        recipe, total = self._recipe, 0.0
        states = self._inputs[: self._completed]
        for inputs in states.tolist():
            total += float(recipe.reward(inputs, self._control_now))
        if self._completed < self._repeats:
            return self._finish(Advance(None, total, self._completed + 1, states))
        if recipe.warp is not None:
            self._gathered[recipe.warped :] = recipe.warp(self._gathered[recipe.warped :])
        return self._finish(Advance(self._gathered.astype(np.float32), total, self._completed, states))


def _link() -> bool:
    """Give MuJoCo's own functions to the compiler by their names; False where its library is not found."""
    spec = importlib.util.find_spec("mujoco")
    folders = (spec and spec.submodule_search_locations) or ()
    paths = [path for folder in folders for path in sorted(Path(folder).glob("libmujoco*"))]
    if not paths:
        return False
    library = ctypes.CDLL(str(paths[0]))  # the one that mujoco's Python module uses: loading it twice gives the same
    for name in ("mj_step", "mj_step1", "mj_step2"):
        llvmlite.binding.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
    return True


_LINKED = _link()
_SIGNATURE = numba.void(numba.intp, numba.intp)
# By name, not by address: only so can numba keep what it compiled for the next process.
_mj_step = numba.types.ExternalFunction("mj_step", _SIGNATURE)
_mj_step1 = numba.types.ExternalFunction("mj_step1", _SIGNATURE)
_mj_step2 = numba.types.ExternalFunction("mj_step2", _SIGNATURE)


@njit(nogil=True)
def _run(repeats, model, data, substeps, warnings, before, memory, input_at, observation_at, inputs, observation):
    """Take `repeats` control steps; returns how many raised no warning of MuJoCo's, and stops at the first that did.

    Args:
        repeats: control steps.
        model, data: addresses of mjModel and mjData; positions and velocities of data are up to date.
        substeps: of a control step.
        warnings: [W] int32, MuJoCo's counters; before: space for a copy.
        memory: [M]; input_at, observation_at: places in it.
        inputs: [at least repeats, R], written after every completed step.
        observation: [O], written where all steps completed.
    """
    for step in range(repeats):
        before[:] = warnings
        # mj_step is mj_step1, then mj_step2. The first half of the first substep was done with the step before.
        _mj_step2(model, data)
        for _ in range(substeps - 1):
            _mj_step(model, data)
        _mj_step1(model, data)
        for i in range(len(warnings)):
            if warnings[i] > before[i]:
                return step
        for i in range(len(input_at)):
            inputs[step, i] = memory[input_at[i]]
    for i in range(len(observation_at)):
        observation[i] = memory[observation_at[i]]
    return repeats


def recipe(task: str, environment: Any) -> Recipe | None:
    """The recipe of a task by its name, for dm_control's `environment` of it; None where there is none."""
    if task not in RECIPES or not _LINKED:
        return None
    physics = environment.physics
    memory, places = _places(physics.data.ptr)
    return RECIPES[task](memory, places, physics.model.ptr)


def _places(data: Any) -> tuple[np.ndarray, SimpleNamespace]:
    """The arrays of an mjData as one flat array [M], and for each of them its elements' places there, int64.

    MuJoCo keeps them in one piece of memory, that neither moves nor grows.
    """
    arrays = {name: getattr(data, name) for name in ("qpos", "qvel", "act", "xpos", "xipos", "xmat", "sensordata")}
    arrays = {name: array for name, array in arrays.items() if array.size}
    begin = min(array.ctypes.data for array in arrays.values())
    end = max(array.ctypes.data + array.nbytes for array in arrays.values())
    memory = np.ctypeslib.as_array((ctypes.c_double * ((end - begin) // 8)).from_address(begin))
    places = {
        name: (array.ctypes.data - begin) // 8 + np.arange(array.size).reshape(array.shape)
        for name, array in arrays.items()
    }
    return memory, SimpleNamespace(**places)


def _walker(speed: float, memory: np.ndarray, at: SimpleNamespace, model: Any) -> Recipe:
    torso = model.body("torso").id
    height, upright = at.xpos[torso, 2], at.xmat[torso, 8]
    velocity = at.sensordata[model.sensor("torso_subtreelinvel").adr[0]]
    observation = np.concatenate([at.xmat[1:, [0, 2]].ravel(), [height], at.qvel])
    return Recipe(memory, observation, np.array([height, upright, velocity]), partial(_walker_reward, speed))


def _walker_reward(speed: float, inputs: list[float], control: np.ndarray) -> float:
    height, upright, velocity = inputs
    stand = 1.2
    if height >= stand:
        standing = 1.0
    else:
        # A Gaussian that is 0.1 at half the height; with NumPy's scalars, whose pow and exp are not C's.
        standing = np.exp(-0.5 * (np.float64((stand - height) / (stand / 2)) * _GAUSSIAN) ** 2)
    reward = (3 * standing + (1 + upright) / 2) / 4
    return reward * (5 * ramp(velocity, speed, speed / 2, 0.5) + 1) / 6 if speed else reward


_GAUSSIAN = np.sqrt(-2 * np.log(0.1))


def _cheetah(memory: np.ndarray, at: SimpleNamespace, model: Any) -> Recipe:
    velocity = at.sensordata[model.sensor("torso_subtreelinvel").adr[0]]
    observation = np.concatenate([at.qpos[1:], at.qvel])
    return Recipe(memory, observation, np.array([velocity]), lambda inputs, _: ramp(inputs[0], 10.0, 10.0, 0.0))


def _hopper(reward: Reward, memory: np.ndarray, at: SimpleNamespace, model: Any) -> Recipe:
    torso, foot = model.body("torso").id, model.body("foot").id
    sensors = [model.sensor(name).adr[0] for name in ("torso_subtreelinvel", "touch_toe", "touch_heel")]
    velocity, *touch = at.sensordata[sensors]
    observation = np.concatenate([at.qpos[1:], at.qvel, touch])
    inputs = np.array([at.xipos[torso, 2], at.xipos[foot, 2], velocity])
    return Recipe(memory, observation, inputs, reward, np.log1p, len(observation) - len(touch))


def _hopper_standing(inputs: list[float]) -> float:
    torso, foot, _ = inputs
    return 1.0 if 0.6 <= torso - foot <= 2 else 0.0


def _hopper_stand_reward(inputs: list[float], control: np.ndarray) -> float:
    # Controls are in [-1, 1]: a parabola that is 0 at both ends.
    return _hopper_standing(inputs) * (((1 - control**2).mean() + 4) / 5)


def _hopper_hop_reward(inputs: list[float], control: np.ndarray) -> float:
    return _hopper_standing(inputs) * ramp(inputs[2], 2.0, 1.0, 0.5)


def _quadruped(speed: float, memory: np.ndarray, at: SimpleNamespace, model: Any) -> Recipe:
    from dm_control.mujoco.wrapper.mjbindings import enums

    def sensors(*types: int) -> np.ndarray:
        return at.sensordata[np.repeat(np.isin(model.sensor_type, types), model.sensor_dim)]

    hinges = model.jnt_type == enums.mjtJoint.mjJNT_HINGE
    upright = at.xmat[model.body("torso").id, 8]
    velocity = sensors(enums.mjtSensor.mjSENS_VELOCIMETER)
    forces = sensors(enums.mjtSensor.mjSENS_FORCE, enums.mjtSensor.mjSENS_TORQUE)
    observation = np.concatenate(
        [
            at.qpos[model.jnt_qposadr[hinges]],
            at.qvel[model.jnt_dofadr[hinges]],
            at.act,
            velocity,
            [upright],
            sensors(enums.mjtSensor.mjSENS_GYRO, enums.mjtSensor.mjSENS_ACCELEROMETER),
            forces,
        ]
    )
    return Recipe(
        memory,
        observation,
        np.array([upright, velocity[0]]),
        lambda inputs, _: ramp(inputs[0], 1.0, 2.0, 0.0) * ramp(inputs[1], speed, speed, 0.5),
        np.arcsinh,
        len(observation) - len(forces),
    )


def _arena(arena: quadruped.Arena, memory: np.ndarray, at: SimpleNamespace, model: Any) -> Recipe:
    walk = _quadruped(WALK_SPEED, memory, at, model)
    torso = model.body("torso").id
    target, *_ = points = [model.body(name).id for name in quadruped.point_names(arena)]
    # The simulation's own bodies, so that the layout of every episode is there without being told.
    observation = np.concatenate([walk.observation, at.xpos[torso], at.xmat[torso, [0, 3, 6]], at.xpos[points].ravel()])
    frame = memory[at.xmat[torso, 0] :][:9].reshape(3, 3)  # a view: it follows the robot
    forces = len(walk.observation) - walk.warped

    def warp(end: np.ndarray) -> np.ndarray:
        points = end[forces + 6 :].reshape(-1, 3)
        seen = quadruped.in_torso_frame(points, end[forces : forces + 3], frame)
        return np.concatenate([np.arcsinh(end[:forces]), end[forces : forces + 6], seen.ravel()])

    def reward(inputs: list[float], control: np.ndarray) -> float:
        if arena.within is None:
            return walking(inputs[10], inputs[11])
        x, y, target_x, target_y = *inputs[:2], *inputs[12:14]
        return reaching(inputs[10], math.hypot(x - target_x, y - target_y), arena.within, arena.margin)

    inputs = np.concatenate([at.qpos[:7], at.qvel[:3], walk.inputs, at.xpos[target, :2]])
    return Recipe(memory, observation, inputs, reward, warp, walk.warped)


RECIPES: dict[str, Callable[[np.ndarray, SimpleNamespace, Any], Recipe]] = {
    "walker_stand": partial(_walker, 0.0),
    "walker_walk": partial(_walker, 1.0),
    "walker_run": partial(_walker, 8.0),
    "cheetah_run": _cheetah,
    "hopper_stand": partial(_hopper, _hopper_stand_reward),
    "hopper_hop": partial(_hopper, _hopper_hop_reward),
    "quadruped_walk": partial(_quadruped, 0.5),
    "quadruped_run": partial(_quadruped, 5.0),
    **{task: partial(_arena, arena) for task, arena in quadruped.TASKS.items()},
}
