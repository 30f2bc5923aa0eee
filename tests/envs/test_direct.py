"""The direct path against dm_control's own, bit for bit."""

import numpy as np
import pytest

from lsp_fast.envs import direct, quadruped, tasks
from lsp_fast.envs.direct import RECIPES, DirectEnv
from lsp_fast.envs.dmc import DmcEnv, flatten


def pair(task, **options):
    """The task on the direct path and on dm_control's."""
    return tasks.make(task, **options), tasks.make(task, direct=False, **options)


def assert_same(got, expected):
    """Two results of `step`, to the bit."""
    assert got[0].dtype == np.float32
    np.testing.assert_equal(got, expected)
    assert type(got[1]) is float


def assert_same_episode(env, other, rng):
    """Both take the same random actions until the episode ends; returns its agent steps."""
    for steps in range(1, 1001):
        action = rng.uniform(-1, 1, env.action_space.shape)
        result = env.step(action)
        assert_same(result, other.step(action))
        if result[2] or result[3]:
            return steps
    raise AssertionError("the episode did not end")


@pytest.mark.parametrize("task", sorted(RECIPES))
def test_whole_episodes_are_the_same_bits(task):
    env, other = pair(task, seed=9)
    assert type(env) is DirectEnv and type(other) is DmcEnv
    assert env.observation_space == other.observation_space and env.action_space == other.action_space
    rng = np.random.default_rng(0)
    for seed in (None, 3, None):
        np.testing.assert_equal(env.reset(seed=seed), other.reset(seed=seed))
        assert assert_same_episode(env, other, rng) == env.max_env_steps / 2


@pytest.mark.parametrize(("task", "repeat"), [("cheetah_run", 1), ("hopper_hop", 3)])
def test_other_repeats(task, repeat):
    env, other = pair(task, action_repeat=repeat)
    env.reset()
    other.reset()
    assert assert_same_episode(env, other, np.random.default_rng(1)) == -(-1000 // repeat)
    assert not env._running


@pytest.mark.parametrize("task", sorted(set(RECIPES) - set(quadruped.TASKS)))
def test_rewards_and_observations_of_any_state(task):
    """Upright, fast and fallen states, that random actions do not reach (test_quadruped.py has the arena's)."""
    env = tasks.make(task)
    physics, suite_task = env._environment.physics, env._environment.task
    recipe, rng = env._recipe, np.random.default_rng(0)
    start = physics.data.qpos.copy()
    rewards = set()
    for _ in range(300):
        with physics.reset_context():
            physics.data.qpos[:] = start + rng.normal(0, rng.choice([0, 0.03, 0.3, 1]), start.shape)
            physics.data.qvel[:] = rng.normal(0, rng.choice([0, 1, 10]), physics.data.qvel.shape)
        control = rng.choice([-1.0, 0.0, 1.0, rng.uniform(-1, 1)], env.action_space.shape)
        physics.data.ctrl[:] = control
        reward = recipe.reward(recipe.memory[recipe.inputs].tolist(), control)
        assert reward == suite_task.get_reward(physics)
        rewards.add(round(float(reward), 2))
        gathered = recipe.memory[recipe.observation]
        if recipe.warp is not None:
            gathered[recipe.warped :] = recipe.warp(gathered[recipe.warped :])
        np.testing.assert_array_equal(gathered.astype(np.float32), flatten(suite_task.get_observation(physics)))
    assert len(rewards) > 5 and min(rewards) < 0.3 and max(rewards) > 0.6


@pytest.mark.parametrize(("height", "standing"), [(0.5, 0.0), (0.6, 1.0), (2.0, 1.0), (2.1, 0.0), (np.nan, 0.0)])
def test_a_hopper_stands_between_two_heights(height, standing):
    assert direct._hopper_standing([height, 0.0, 0.0]) == standing


# The cheetah's control step is one substep, so that a speed chooses the control step in which it breaks.
@pytest.mark.parametrize(
    ("task", "speed", "env_steps"),
    [
        ("quadruped_walk", np.nan, 1),
        ("quadruped_run", 1e12, 1),
        ("walker_walk", np.inf, 1),
        ("hopper_hop", 1e12, 1),
        ("cheetah_run", np.nan, 1),
        ("cheetah_run", 1e8, 2),
        ("cheetah_run", 1e7, 3),
    ],
)
def test_a_diverging_simulation_ends_the_episode_alike(task, speed, env_steps):
    both = pair(task, action_repeat=3)
    action = np.full(both[0].action_space.shape, 0.1)
    outcomes = []
    for env in both:
        env.reset(seed=1)
        before = env.step(action)[0]
        env._environment.physics.data.qvel[0] = speed
        outcomes.append(env.step(action))
        observation, reward, terminated, truncated, info = outcomes[-1]
        assert (terminated, truncated) == (False, True) and np.isfinite(observation).all()
        np.testing.assert_array_equal(observation, before)
        assert info == {"env_steps": env_steps, "diverged": True}
        if speed < 1e9 and task == "cheetah_run":
            assert reward == env_steps - 1  # as fast as the reward counts
    assert_same(*outcomes)
    # The next episode knows nothing of it, with and without a seed.
    for seed in (None, 5):
        np.testing.assert_array_equal(both[0].reset(seed=seed)[0], both[1].reset(seed=seed)[0])
        for _ in range(5):
            assert_same(both[0].step(action), both[1].step(action))


def test_only_new_warnings_count():
    env = tasks.make("cheetah_run")
    env.reset()
    env._environment.physics.data.warning.number[:] = 7
    assert "diverged" not in env.step(np.zeros(6))[4]


def test_what_has_no_recipe_takes_dm_controls_path(monkeypatch):
    assert not {"quadruped_fetch", "quadruped_escape"} & set(RECIPES)
    assert type(tasks.make("quadruped_fetch")) is type(tasks.make("pendulum_swingup")) is DmcEnv
    monkeypatch.setattr(direct, "_LINKED", False)  # MuJoCo's library cannot be called
    assert type(tasks.make("cheetah_run")) is DmcEnv


@pytest.mark.parametrize("change", ["legacy_step", "integrator"])
def test_another_way_of_stepping_is_refused(change):
    environment = tasks.make("cheetah_run", direct=False)._environment
    if change == "legacy_step":
        environment.physics.legacy_step = False
    else:
        environment.physics.model.opt.integrator = 1  # Runge-Kutta
    recipe = direct.recipe("cheetah_run", environment)
    with pytest.raises(ValueError, match="by default"):
        DirectEnv(environment, np.random.RandomState(0), recipe, max_env_steps=1000)
