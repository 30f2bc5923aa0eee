"""dm_control tasks as gymnasium environments (SPEC section 1)."""

import importlib
import os
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from lsp_fast import envs
from lsp_fast.envs import suite as suite_of
from lsp_fast.envs.dmc import DmcEnv
from lsp_fast.errors import LspFastError

NEEDS_OPENGL = "quadruped_escape"


def raw(task, seed):
    """The task as dm_control gives it."""
    envs.task_names()  # sets MUJOCO_GL before the import
    from dm_control import suite

    domain, name = next((d, t) for d, t in suite.ALL_TASKS if f"{d}_{t}" == task)
    return suite.load(domain, name, task_kwargs={"random": np.random.RandomState(seed)})


def flat(time_step):
    return np.concatenate([np.asarray(v).reshape(-1) for v in time_step.observation.values()]).astype(np.float32)


def episode(env, seed, actions):
    """Observations and rewards of an episode's first steps."""
    rows = [env.reset(seed=seed)[0]]
    rewards = []
    for action in actions:
        observation, reward, *_ = env.step(action)
        rows.append(observation)
        rewards.append(reward)
    return np.array(rows), np.array(rewards)


def random_actions(env, count, seed=0):
    size = env.action_space.shape
    return np.random.default_rng(seed).uniform(-1, 1, (count, *size)).astype(np.float32)


def test_names_cover_the_suite():
    names = envs.task_names()
    assert names == sorted(names) and len(names) == len(set(names)) >= 50
    assert {"cheetah_run", "ball_in_cup_catch", "humanoid_CMU_run", "point_mass_easy", "quadruped_walk"} <= set(names)


@pytest.mark.parametrize("task", sorted(suite_of.suite_tasks()))
def test_spaces_and_finite_values(task):
    suite_of.suite()
    # What it was loaded with; MUJOCO_GL may say another one by now, for frames that are drawn without it.
    if task == NEEDS_OPENGL and importlib.import_module("dm_control._render").BACKEND in (None, "off"):
        with pytest.raises(LspFastError, match=r"quadruped_escape.*OpenGL.*MUJOCO_GL=egl"):
            envs.make(task)
        return
    env = envs.make(task)
    assert env.observation_space.shape == flat(raw(task, 0).reset()).shape
    observation, info = env.reset(seed=1)
    assert info == {}
    for action in random_actions(env, 3):
        assert observation in env.observation_space and action in env.action_space
        assert np.isfinite(observation).all()
        observation, reward, terminated, truncated, info = env.step(action)
        assert isinstance(reward, float) and np.isfinite(reward)
        assert (terminated, truncated, info) == (False, False, {"env_steps": 2})


@pytest.mark.parametrize("task", ["cheetah_run", "finger_turn_easy", "lqr_lqr_2_1"])
def test_gymnasium_checker(task):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(infinity|spec|symmetric|render).*")
        check_env(envs.make(task), skip_render_check=True)


@pytest.mark.parametrize("repeat", [1, 2, 3])
@pytest.mark.parametrize("task", ["cheetah_run", "walker_walk", "ball_in_cup_catch", "quadruped_run"])
def test_equals_dm_control_with_rewards_summed(task, repeat):
    env, reference = envs.make(task, action_repeat=repeat, seed=99), raw(task, 7)
    spec = reference.action_spec()
    observation, _ = env.reset(seed=7)
    np.testing.assert_array_equal(observation, flat(reference.reset()))
    for action in random_actions(env, 20):
        control = spec.minimum + (action.astype(np.float64) + 1) / 2 * (spec.maximum - spec.minimum)
        steps = [reference.step(control) for _ in range(repeat)]
        observation, reward, *_ = env.step(action)
        assert reward == pytest.approx(sum(step.reward for step in steps), rel=1e-9, abs=1e-12)
        np.testing.assert_allclose(observation, flat(steps[-1]), rtol=1e-5, atol=1e-5)


def test_actions_reach_unit_bounds_to_the_bit():
    env, reference = envs.make("cheetah_run", action_repeat=1), raw("cheetah_run", 3)
    env.reset(seed=3)
    reference.reset()
    for action in random_actions(env, 50) * np.float32(1e-3):
        observation, reward, *_ = env.step(action)
        expected = reference.step(action)
        assert reward == expected.reward
        np.testing.assert_array_equal(observation, flat(expected))


def test_time_limit_truncates_and_never_terminates():
    env = envs.make("cartpole_balance")
    env.reset(seed=0)
    for step in range(500):
        _, reward, terminated, truncated, info = env.step(np.zeros(1, np.float32))
        assert isinstance(reward, float) and not terminated and info == {"env_steps": 2}
        assert truncated == (step == 499)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1, np.float32))
    env.reset()
    assert not env.step(np.zeros(1, np.float32))[3]


def test_repeats_stop_at_the_last_step():
    env, reference = envs.make("cartpole_balance", action_repeat=3), raw("cartpole_balance", 5)
    env.reset(seed=5)
    reference.reset()
    steps, truncated, total = [], False, 0
    while not truncated:
        observation, reward, _, truncated, info = env.step(np.full(1, 0.3, np.float32))
        rewards = []
        for _ in range(info["env_steps"]):
            last = reference.step(np.full(1, np.float64(np.float32(0.3))))
            rewards.append(last.reward)
        assert reward == sum(rewards)
        np.testing.assert_array_equal(observation, flat(last))
        steps.append(info["env_steps"])
        total += info["env_steps"]
    assert total == 1000 and steps[-1] == 1 and set(steps[:-1]) == {3} and last.last()


def test_a_task_without_limit_truncates():
    env = envs.make("lqr_lqr_2_1")
    env.reset(seed=0)
    ends = [env.step(np.full(1, 0.5, np.float32))[2:4] for _ in range(500)]
    assert ends[-1] == (False, True) and not any(terminated or truncated for terminated, truncated in ends[:-1])


class Scripted:
    """A dm_env environment that ends with a given discount at its third control step."""

    def __init__(self, discount):
        from dm_env import specs

        self.discount = discount
        self.count = 0
        self._action = specs.BoundedArray((2,), np.float64, [-2.0, 0.0], [4.0, 1.0])
        self.controls = []

    def observation_spec(self):
        return {"matrix": np.zeros((2, 2)), "scalar": np.zeros(())}

    def action_spec(self):
        return self._action

    def observation(self):
        return {"matrix": np.arange(4.0).reshape(2, 2), "scalar": float(self.count)}

    def reset(self):
        import dm_env

        self.count = 0
        return dm_env.restart(self.observation())

    def step(self, action):
        import dm_env

        assert self.count < 3, "stepped past the last step"
        self.count += 1
        self.controls.append(action)
        kind = dm_env.StepType.LAST if self.count == 3 else dm_env.StepType.MID
        return dm_env.TimeStep(kind, 1.0, self.discount if self.count == 3 else 1.0, self.observation())

    def close(self):
        pass


@pytest.mark.parametrize(("discount", "terminated"), [(0.0, True), (1.0, False)])
def test_only_discount_zero_terminates(discount, terminated):
    env = DmcEnv(Scripted(discount), np.random.RandomState(0))
    env.reset()
    assert env.step(np.zeros(2))[1:] == (2.0, False, False, {"env_steps": 2})
    observation, *rest = env.step(np.zeros(2))
    assert rest == [1.0, terminated, not terminated, {"env_steps": 1}]
    assert observation.tolist() == [0, 1, 2, 3, 3] and observation.dtype == np.float32


def test_a_diverging_simulation_truncates_and_keeps_the_rewards_before():
    from dm_control.rl.control import PhysicsError

    class Diverging(Scripted):
        def step(self, action):
            if self.count == 2:
                raise PhysicsError("Physics state is invalid")
            return super().step(action)

    env = DmcEnv(Diverging(1.0), np.random.RandomState(0), action_repeat=3, max_env_steps=3)
    for _ in range(2):
        first, _ = env.reset()
        first += 1  # what was given out is the caller's
        observation, *rest = env.step(np.zeros(2))
        assert observation.tolist() == [0, 1, 2, 3, 0]
        assert rest == [2.0, False, True, {"env_steps": 3, "diverged": True}]
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(np.zeros(2))


def test_actions_map_affinely_and_are_clipped():
    task = Scripted(1.0)
    env = DmcEnv(task, np.random.RandomState(0), action_repeat=1)
    env.reset()
    for action in ([-1, -1], [1, 1], [0, 9]):
        env.step(np.array(action))
    np.testing.assert_allclose(task.controls, [[-2, 0], [4, 1], [1, 1]])


@pytest.mark.parametrize("task", ["cheetah_run", "quadruped_walk", "fish_swim", "reacher_easy", "lqr_lqr_2_1"])
def test_same_seed_same_episode(task):
    env = envs.make(task, seed=0)
    actions = random_actions(env, 20)
    first = episode(env, 5, actions)
    episode(env, 6, random_actions(env, 13, seed=1))  # whatever happened before
    env.reset()
    for other in (env, envs.make(task, seed=123)):
        for got, expected in zip(episode(other, 5, actions), first, strict=True):
            np.testing.assert_array_equal(got, expected)
    assert not np.array_equal(episode(env, 6, actions)[0], first[0])


def test_the_constructor_seeds_the_first_episode():
    np.testing.assert_array_equal(
        envs.make("cheetah_run", seed=4).reset()[0], envs.make("cheetah_run").reset(seed=4)[0]
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_non_finite_action_is_named(value):
    env = envs.make("cheetah_run")
    env.reset()
    action = np.zeros(6, np.float32)
    action[4] = value
    with pytest.raises(ValueError, match=f"not finite.*{value}"):
        env.step(action)


def test_bad_arguments():
    env = envs.make("cheetah_run")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(6))
    env.reset()
    with pytest.raises(ValueError, match="shape"):
        env.step(np.zeros(5))
    with pytest.raises(ValueError, match="action_repeat"):
        envs.make("cheetah_run", action_repeat=0)


@pytest.mark.parametrize(
    ("task", "nearest"),
    [("cheeta_run", "cheetah_run"), ("walker-walk", "walker_walk"), ("quadruped_cave", "quadruped_cove")],
)
def test_an_unknown_task_names_the_nearest(task, nearest):
    with pytest.raises(LspFastError, match=f"unknown task '{task}'.*{nearest}"):
        envs.make(task)


def run_python(code, **environment):
    base = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    done = subprocess.run([sys.executable, "-c", code], env=base | environment, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr


def test_import_is_cheap_and_mujoco_gl_is_the_users():
    loaded = (
        "import sys, os, lsp_fast.envs; print([m for m in ('torch', 'dm_control', 'gymnasium') if m in sys.modules])"
    )
    assert run_python(loaded) == "[]"
    no_torch = "import sys, lsp_fast.experience.driver, lsp_fast.experience.replay; from lsp_fast import envs\n"
    no_torch += "envs.task_names(); "
    assert run_python(no_torch + "print('torch' in sys.modules)") == "False"
    choice = "import os; from lsp_fast import envs; envs.task_names(); print(os.environ['MUJOCO_GL'])"
    assert run_python(choice) == "disable"
    assert run_python(choice, MUJOCO_GL="off") == "off"


def test_a_bad_renderer_is_explained():
    code = "from lsp_fast import envs\ntry: envs.task_names()\nexcept Exception as e: print(type(e).__name__, e)"
    said = run_python(code, MUJOCO_GL="nonsense")
    assert said.startswith("LspFastError") and "MUJOCO_GL='nonsense'" in said and "Unset" in said
