"""What HIRO's goals are about: observed positions and velocities (SPEC section 5)."""

import numpy as np
import pytest

from lsp_fast import envs
from lsp_fast.envs.goals import goal_entries


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("cheetah_run", range(17)),
        ("walker_walk", range(24)),
        ("hopper_hop", range(13)),  # without the two touch sensors
        ("reacher_easy", [0, 1, 4, 5]),  # without the way to the target
        ("quadruped_run", [*range(16), 44, 45, 46, 47]),
        ("quadruped_reach", [*range(16), 44, 45, 46, 47]),
        ("gym:Pendulum-v1", range(3)),
    ],
)
def test_entries(task, expected):
    env = envs.make(task)
    assert goal_entries(env) == list(expected)
    env.reset(seed=0)
    if task.startswith("quadruped"):
        physics = env._environment.physics
        observation, _, _, _, _ = env.step(np.zeros(env.action_space.shape, np.float32))
        goals = observation[goal_entries(env)]
        np.testing.assert_allclose(goals[:16], physics.data.qpos[7:], rtol=1e-5)
        np.testing.assert_allclose(goals[16:19], physics.torso_velocity(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(goals[19], physics.torso_upright(), rtol=1e-5)
