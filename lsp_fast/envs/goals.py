"""What of an observation says where the body is and how it moves: what HIRO's goals are about (SPEC section 5)."""

from __future__ import annotations

import gymnasium
import numpy as np

SENSORS = {"touch", "touch_sensors", "foot_forces", "force_torque", "imu", "inertial_sensors", "actuator_state"}
TARGETS = {"to_target", "target", "target_pos", "target_position", "pillar_positions"}
QUADRUPED_JOINTS = 16
"""Of `egocentric_state`: joint positions, before their velocities and the actuators' states."""


def goal_entries(env: gymnasium.Env) -> list[int]:
    """Indices of the observed positions and velocities; of environments that do not name their entries, all; of frames
    none.

    Of the quadruped: joint positions, the torso's velocity, and how upright it is.
    """
    widths: dict[str, int] | None = getattr(env.unwrapped, "entries", None)
    if widths is None and env.observation_space.dtype == np.uint8:
        return []
    if widths is None:
        return list(range(int(np.prod(env.observation_space.shape or (1,)))))
    found, start = [], 0
    for name, width in widths.items():
        kept = 0 if name in SENSORS | TARGETS else width
        if "egocentric_state" in widths:
            kept = {"egocentric_state": QUADRUPED_JOINTS, "torso_velocity": width, "torso_upright": width}.get(name, 0)
        found += range(start, start + kept)
        start += width
    return found
