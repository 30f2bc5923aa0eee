"""Gymnasium's environments behind the contract of ours."""

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict
from gymnasium.utils.env_checker import check_env

from lsp_fast import envs
from lsp_fast.envs.gym import GymEnv
from lsp_fast.errors import LspFastError


@pytest.mark.filterwarnings("ignore:.*WARN")
@pytest.mark.parametrize("task", ["gym:Pendulum-v1", "gym:HalfCheetah-v5"])
def test_it_passes_gymnasiums_checker(task):
    check_env(envs.make(task), skip_render_check=True)


def test_it_needs_no_dm_control():
    """Neither its import, most of a second, nor the renderer that it looks for: a bad MUJOCO_GL is not its business."""
    code = "import os, sys; from lsp_fast import envs; envs.make('gym:Pendulum-v1'); print(os.environ['MUJOCO_GL'])"
    code += "; print('dm_control' in sys.modules, 'numba' in sys.modules)"
    environment = {**os.environ, "MUJOCO_GL": "nonsense"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["nonsense", "False", "False"], done.stderr


def test_a_step_is_the_repeated_step_of_the_environment_itself():
    ours, theirs = envs.make("gym:Pendulum-v1", action_repeat=3), gymnasium.make("Pendulum-v1")
    first, _ = ours.reset(seed=5)
    np.testing.assert_array_equal(first, theirs.reset(seed=5)[0])
    observation, reward, terminated, truncated, info = ours.step(np.array([0.25], np.float32))
    expected = [theirs.step(np.array([0.5], np.float32)) for _ in range(3)]  # bounds of ±2
    np.testing.assert_array_equal(observation, expected[-1][0])
    assert reward == pytest.approx(sum(step[1] for step in expected))
    assert (terminated, truncated, info["env_steps"]) == (False, False, 3)


def test_a_time_limit_within_the_repeat_ends_the_step():
    env = envs.make("gym:Pendulum-v1", action_repeat=3)  # of 200 steps
    env.reset(seed=0)
    steps = [env.step(np.zeros(1, np.float32)) for _ in range(67)]
    assert [s[3] for s in steps] == [False] * 66 + [True] and steps[-1][4]["env_steps"] == 2
    assert not any(s[2] for s in steps)


def test_a_termination_is_one():
    env = envs.make("gym:Hopper-v5")
    env.reset(seed=0)
    ends = []
    while not ends or not (ends[-1][0] or ends[-1][1]):
        ends.append(env.step(np.ones(3, np.float32))[2:4])
    assert ends[-1] == (True, False)


class Endless(gymnasium.Env):
    """Dictionary observations, no end, and actions of another shape than a vector."""

    observation_space = gymnasium.spaces.Dict(
        b=gymnasium.spaces.Box(0, 1, (2, 2), np.float64), a=gymnasium.spaces.Discrete(3)
    )
    action_space = gymnasium.spaces.Box(np.array([[0.0, -4.0]]), np.array([[1.0, 0.0]]), dtype=np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"a": 1, "b": np.full((2, 2), 0.5)}, {}

    def step(self, action):
        assert action.shape == (1, 2) and action.dtype == np.float64
        return self.reset()[0], float(action.sum()), False, False, {}


def test_nested_observations_are_flattened_and_an_endless_episode_is_truncated():
    gymnasium.register("Endless-v0", Endless)
    try:
        with pytest.warns(
            UserWarning, match="gym:Endless-v0 registers no max_episode_steps: .* 1000 environment steps"
        ):
            env = envs.make("gym:Endless-v0")
    finally:
        del gymnasium.registry["Endless-v0"]
    observation, _ = env.reset(seed=1)
    np.testing.assert_array_equal(observation, np.float32([0.5, 0.5, 0.5, 0.5, 0, 1, 0]))
    assert env.step(np.array([-1.0, 1.0]))[1] == 0.0 and env.step(np.array([0.0, 0.0]))[1] == 2 * (0.5 - 2)
    ends = [env.step(np.zeros(2))[3] for _ in range(498)]
    assert ends == [False] * 497 + [True]


@pytest.mark.parametrize(
    ("task", "named"),
    [
        ("gym:CartPole-v1", "discrete actions .* only continuous"),
        ("gym:Pendulm-v1", "gym:Pendulum-v1"),
        ("gym:", "gym:"),
        ("gym:nowhere:Env-v0", "nowhere"),
    ],
)
def test_what_cannot_be_made_is_named(task, named):
    with pytest.raises(LspFastError, match=named):
        envs.make(task)


@pytest.mark.parametrize(
    ("actions", "observations", "named"),
    [
        (gymnasium.spaces.Box(-np.inf, 1, (2,)), gymnasium.spaces.Box(0, 1, (2,)), "without bounds"),
        (gymnasium.spaces.Box(0, 5, (2,), np.int64), gymnasium.spaces.Box(0, 1, (2,)), "only continuous"),
        (
            gymnasium.spaces.Box(-1, 1, (2,)),
            gymnasium.spaces.Sequence(gymnasium.spaces.Box(0, 1, (2,))),
            "no fixed number",
        ),
    ],
)
def test_spaces_that_cannot_be_learned_with_are_named(actions, observations, named):
    env = Endless()
    env.action_space, env.observation_space = actions, observations
    with pytest.raises(LspFastError, match=named):
        GymEnv(env, 2)


@pytest.mark.parametrize("action", [np.zeros(2), np.array([np.nan])])
def test_an_action_that_does_not_fit_is_named(action):
    env = envs.make("gym:Pendulum-v1")
    with pytest.raises(ValueError, match="action"):
        env.step(action)


def test_what_entries_and_actions_are_called_and_mean():
    class Arm(gymnasium.Env):
        observation_space = Dict({"velocity": Box(-1, 1, (2,)), "angle": Box(-1, 1, (3,))})
        action_space = Box(np.array([-1, 0], np.float32), np.array([3, 10], np.float32))

    env = GymEnv(Arm(), 2, "arm")
    assert list(env.entries.items()) == [("angle", 3), ("velocity", 2)]  # as gymnasium flattens them
    assert [x.tolist() for x in env.action_bounds] == [[-1, 0], [3, 10]]
    assert envs.make("gym:Pendulum-v1").entries is None
