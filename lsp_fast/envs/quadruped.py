"""The paper's quadruped tasks that the suite lacks: one robot in one walled arena (SPEC sections 5 and 7, transfer).

A source task and its target have the same spaces: every task draws a target and observes it, rewarded or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lsp_fast.envs.dmc import StepInfo
from lsp_fast.envs.rewards import reaching, walking
from lsp_fast.envs.suite import suite as load_suite

load_suite()  # settles MUJOCO_GL, which the next imports read

from dm_control.rl import control  # noqa: E402
from dm_control.suite import base, common  # noqa: E402
from dm_control.suite import quadruped as suite  # noqa: E402
from lxml import etree  # type: ignore[attr-defined]  # noqa: E402

CONTROL_TIMESTEP = 0.02
"""Seconds of a control step, as in the suite."""

HALF_SIZE = 4.0
"""Of the square floor, metres, as every length here."""
WALL = HALF_SIZE + 0.05
"""Where the walls stand: a robot at the edge of `SPAWN` reaches 1.02 from its torso's centre, and touches none."""
SPAWN, TARGET = 0.75 * HALF_SIZE, 0.8 * HALF_SIZE
"""Robot and pillars, and the target, are drawn from the square of this half-size."""

TARGET_RADIUS = 0.4
PILLARS, PILLAR_RADIUS, PILLAR_HEIGHT = 5, 0.25, 1.25
FROM_ROBOT, APART, TARGET_AWAY = 1.2, 0.6, 4.0
"""Smallest distances of centres among obstacles: robot to pillar, pillar to pillar, robot to target."""

MAX_DRAWS = 1000
"""Of one place. A draw is refused with a probability of at most 0.8: that many in a row say that something is wrong."""


class Layout(NamedTuple):
    """Where an episode begins, horizontally."""

    robot: np.ndarray  # [2]
    target: np.ndarray  # [2]
    pillars: np.ndarray  # [P, 2]


def open_floor(random: np.random.RandomState) -> Layout:
    """Robot and target anywhere, no pillars."""
    return Layout(random.uniform(-SPAWN, SPAWN, 2), random.uniform(-TARGET, TARGET, 2), np.empty((0, 2)))


def obstacles(random: np.random.RandomState) -> Layout:
    """A far target, a pillar midway, four anywhere, at the distances above.

    Raises:
        RuntimeError: no place was found.
    """
    robot, target, _ = _until(
        lambda: open_floor(random), lambda drawn: math.dist(drawn.robot, drawn.target) >= TARGET_AWAY
    )
    pillars = [(robot + target) / 2]  # at least half of TARGET_AWAY from the robot
    while len(pillars) < PILLARS:
        # Each is drawn until it fits: whatever stands already, most of the floor is left for the next.
        place = _until(
            lambda: random.uniform(-SPAWN, SPAWN, 2),
            lambda drawn: (
                math.dist(drawn, robot) >= FROM_ROBOT and all(math.dist(drawn, other) >= APART for other in pillars)
            ),
        )
        pillars.append(place)
    return Layout(robot, target, np.array(pillars))


def cove(random: np.random.RandomState) -> Layout:
    """Pillars too close to pass between, open towards the robot, stand in the straight way to the target."""
    x = np.arange(-2, 3)
    pillars = np.stack([0.75 * x, 0.1 - 0.2 * abs(x)], axis=1)
    return Layout(np.array([0.0, -3.0]), np.array([0.0, 3.2]), pillars)


def _until(draw: Callable[[], Any], fits: Callable[[Any], bool]) -> Any:
    for _ in range(MAX_DRAWS):
        if fits(drawn := draw()):
            return drawn
    raise RuntimeError(f"no place that keeps the arena's distances was found in {MAX_DRAWS} draws")


@dataclass(frozen=True)
class Arena:
    """A task of the family."""

    layout: Callable[[np.random.RandomState], Layout]
    pillars: int = 0
    upright: bool = True
    """The robot starts upright with a random azimuth; otherwise in a random orientation."""
    within: float | None = None
    """The target is reached, and fully rewarded, at this horizontal distance; None rewards walking forward instead."""
    margin: float = 0.0
    """Beyond `within` the reward falls linearly to 0 over this distance; with 0 it is sparse."""
    seconds: float = 20.0
    """Of an episode; it ends by truncation."""

    @property
    def env_steps(self) -> int:
        """Control steps of an episode."""
        return round(self.seconds / CONTROL_TIMESTEP)


_REACH: dict[str, Any] = {"within": TARGET_RADIUS, "margin": HALF_SIZE * math.sqrt(2)}

TASKS = {
    "quadruped_getup_walk": Arena(open_floor, upright=False),
    "quadruped_upright_walk": Arena(open_floor),
    "quadruped_getup_reach": Arena(open_floor, upright=False, **_REACH),
    "quadruped_reach": Arena(open_floor, **_REACH),
    "quadruped_obstacles": Arena(obstacles, pillars=PILLARS, seconds=10.0),
    "quadruped_cove": Arena(cove, pillars=PILLARS, within=1.6),
}
"""The reach tasks follow the walk tasks of the same start, the cove follows the obstacles."""


class ArenaTask(base.Task):
    """The rows of `TASKS` as a dm_control task; layouts and starts are drawn from its random state alone."""

    def __init__(self, arena: Arena, random: np.random.RandomState) -> None:
        super().__init__(random=random)
        self._arena = arena
        self._points = point_names(arena)

    def initialize_episode(self, physics: suite.Physics) -> None:
        layout = self._arena.layout(self.random)
        # Into the model: resetting the data, as the search for a height does, would wipe out mocap positions.
        places = np.concatenate([layout.target[None], layout.pillars])  # [1 + P, 2]
        for name, place in zip(self._points, places, strict=True):
            physics.named.model.body_pos[name, ["x", "y"]] = place
        _place(physics, layout.robot, self._orientation())
        super().initialize_episode(physics)

    def get_observation(self, physics: suite.Physics) -> dict[str, Any]:
        """The suite's 78 entries in its order, then position, forward vector, target and pillars: 87 or 102 numbers."""
        position, frame = physics.named.data.xpos["torso"], physics.named.data.xmat["torso"].reshape(3, 3)
        points = in_torso_frame(physics.named.data.xpos[self._points], position, frame)  # [1 + P, 3]
        observation = {
            "egocentric_state": physics.egocentric_state(),
            "torso_velocity": physics.torso_velocity(),
            "torso_upright": physics.torso_upright(),
            "imu": physics.imu(),
            "force_torque": physics.force_torque(),
            "torso_position": position.copy(),
            "forward": frame[:, 0].copy(),
            "target_position": points[0],
        }
        return observation | ({"pillar_positions": points[1:]} if self._arena.pillars else {})

    def get_reward(self, physics: suite.Physics) -> float:
        upright = float(physics.torso_upright())
        if self._arena.within is None:
            return walking(upright, float(physics.torso_velocity()[0]))
        x, y, _ = physics.named.data.xpos["torso"] - physics.named.data.xpos["target"]
        return reaching(upright, math.hypot(x, y), self._arena.within, self._arena.margin)

    def _orientation(self) -> np.ndarray:
        """A quaternion [4]."""
        if self._arena.upright:
            azimuth = self.random.uniform(0, 2 * np.pi)
            return np.array([np.cos(azimuth / 2), 0, 0, np.sin(azimuth / 2)])
        orientation = self.random.randn(4)
        return orientation / np.linalg.norm(orientation)


def _place(physics: suite.Physics, place: np.ndarray, orientation: np.ndarray) -> None:
    """Put the robot over that place [2] at the lowest height, in steps of 1 cm, where it touches nothing.

    Layouts keep pillars and walls out of its reach: it would be lifted onto them.
    """
    for height in range(200):
        try:
            with physics.reset_context():
                physics.named.data.qpos["root"] = [*place, height / 100, *orientation]
        except control.PhysicsError:  # so deep in the floor that there is no room for its contacts
            continue
        if physics.data.ncon == 0:
            return
    raise RuntimeError("the quadruped touches something at every height up to 2 m")


def in_torso_frame(points: np.ndarray, position: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Points [N, 3] of the world as the torso at position [3] with axes in the columns of frame [3, 3] sees them."""
    return (points - position) @ frame


def point_names(arena: Arena) -> list[str]:
    """The bodies whose places are observed, in that order."""
    return ["target", *(f"pillar_{i}" for i in range(arena.pillars))]


def load(task: str, random: np.random.RandomState) -> control.Environment:
    """The task of that name in `TASKS`, drawing from `random`."""
    arena = TASKS[task]
    physics = suite.Physics.from_xml_string(_model(arena), common.ASSETS)
    return control.Environment(
        physics, ArenaTask(arena, random), time_limit=arena.seconds, control_timestep=CONTROL_TIMESTEP
    )


def _model(arena: Arena) -> bytes:
    """The suite's robot in the arena. What moves between episodes is a body of its own (an unmoved geom stays put)."""
    mjcf = etree.fromstring(suite.make_model(floor_size=HALF_SIZE))
    world = mjcf.find("worldbody")
    # Planes that face inwards, 2 m high to the eye. Turned from facing up, they keep their other horizontal side.
    for name, x, y in (("nx", -1, 0), ("px", 1, 0), ("ny", 0, -1), ("py", 0, 1)):
        size = f"1 {WALL} 1" if x else f"{WALL} 1 1"
        attributes = {"name": f"wall_{name}", "class": "wall", "pos": f"{x * WALL} {y * WALL} 1"}
        etree.SubElement(world, "geom", attributes, zaxis=f"{-x} {-y} 0", size=size)
    target, *pillars = point_names(arena)
    body = etree.SubElement(world, "body", name=target, pos="0 0 .05")
    etree.SubElement(body, "site", name=target, type="cylinder", size=f"{TARGET_RADIUS} .06", material="target")
    for name in pillars:
        body = etree.SubElement(world, "body", name=name, pos=f"0 0 {PILLAR_HEIGHT / 2}")
        size = f"{PILLAR_RADIUS} {PILLAR_HEIGHT / 2}"
        etree.SubElement(body, "geom", name=name, type="cylinder", size=size, material="decoration")
    return etree.tostring(mjcf)


def step_info(task: str, environment: control.Environment) -> StepInfo:
    """What gives a step of one task of the family the reward of another (SPEC section 5, transfer).

    `info["root"]`: float32 [T, 10], after each of T control steps (at a reset: of the start, T = 1) the torso's
    position and quaternion, qpos[:7], and its velocity in the world's frame, qvel[:3]; a step that diverged has no row.
    `info["target"]`: float32 [2], the episode's target. `info["success"]`: whether it was reached after one of those
    control steps; only for tasks that reward it.
    """
    within, data, target = TASKS[task].within, environment.physics.data, environment.physics.named.data.xpos["target"]

    def state() -> np.ndarray:
        return np.concatenate([data.qpos[:7], data.qvel[:3]])

    def info(states: np.ndarray) -> dict[str, Any]:
        told = {"root": states[:, :10].astype(np.float32), "target": target[:2].astype(np.float32)}
        if within is not None:
            x, y = target[:2].tolist()
            told["success"] = any(math.hypot(row[0] - x, row[1] - y) <= within for row in states[:, :2].tolist())
        return told

    return StepInfo(state, info)
