"""The arena's quadruped tasks (SPEC sections 5 and 7, transfer); test_direct.py plays their episodes on both paths."""

import heapq
import itertools
import math

import numpy as np
import pytest

from lsp_fast import envs
from lsp_fast.envs import quadruped, tasks
from lsp_fast.envs import suite as suite_of
from lsp_fast.envs.direct import DirectEnv
from lsp_fast.envs.quadruped import TASKS
from lsp_fast.experience.driver import Driver, episode_seed

SEEDS = 200
UPRIGHT = ["quadruped_upright_walk", "quadruped_reach", "quadruped_obstacles", "quadruped_cove"]
GETUP = ["quadruped_getup_walk", "quadruped_getup_reach"]
PAIRS = [
    ("quadruped_getup_walk", "quadruped_getup_reach"),
    ("quadruped_upright_walk", "quadruped_reach"),
    ("quadruped_obstacles", "quadruped_cove"),
]
LIMITS = {task: 500 if task == "quadruped_obstacles" else 1000 for task in TASKS}
WITHIN = {"quadruped_getup_reach": 0.4, "quadruped_reach": 0.4, "quadruped_cove": 1.6}


def rotation(quaternion):
    """[3, 3], its columns the torso's axes in the world."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def expected_reward(task, root, target):
    """Of one control step, written from the tasks' definition."""
    axes, velocity = rotation(root[3:7]), root[7:10]
    upright = (1 + axes[2, 2]) / 2
    if task not in WITHIN:
        speed = velocity @ axes[:, 0]
        return upright * np.clip(0.5 + 0.5 * speed / 0.5, 0, 1) * (speed > -0.5)
    away = np.hypot(*(root[:2] - target))
    if task == "quadruped_cove":
        return upright * (away <= 1.6)
    return upright * np.clip(1 - (away - 0.4) / (4 * np.sqrt(2)), 0, 1)


def play(env, seed, actions):
    """Everything of an episode's first steps."""
    return [env.reset(seed=seed), *(env.step(action) for action in actions)]


def test_names():
    assert set(TASKS) < set(envs.task_names()) and not set(TASKS) & set(suite_of.suite_tasks())
    assert len(TASKS) == 6 and {task for pair in PAIRS for task in pair} == set(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_spaces(task):
    env = envs.make(task)
    assert type(env) is DirectEnv and env.releases_gil
    assert env.observation_space.shape == (102 if task in PAIRS[2] else 87,) and env.action_space.shape == (12,)
    assert env.max_env_steps == LIMITS[task]


@pytest.mark.parametrize("pair", PAIRS)
def test_source_and_target_have_equal_spaces(pair):
    source, target = map(envs.make, pair)
    assert source.observation_space == target.observation_space and source.action_space == target.action_space


def test_the_observation_begins_with_the_suites():
    from dm_control import suite

    names = list(suite.load("quadruped", "walk").observation_spec())
    spec = tasks.make("quadruped_cove", direct=False)._environment.observation_spec()
    assert list(spec) == [*names, "torso_position", "forward", "target_position", "pillar_positions"]
    assert [spec[name].shape for name in list(spec)[len(names) :]] == [(3,), (3,), (3,), (5, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_layout_keeps_its_distances(task):
    env = envs.make(task)
    physics, starts, targets = env._environment.physics, [], []
    for seed in range(SEEDS):
        observation, info = env.reset(seed=seed)
        assert observation in env.observation_space and np.isfinite(observation).all() and physics.data.ncon == 0
        root, target = info["root"], info["target"]
        assert root.shape == (1, 10) and target.shape == (2,) and root.dtype == target.dtype == np.float32
        np.testing.assert_array_equal(root[0], np.r_[physics.data.qpos[:7], np.zeros(3)].astype(np.float32))
        assert info.get("success") == (math.dist(root[0, :2], target) <= WITHIN[task] if task in WITHIN else None)

        # Where things are, from the observation alone.
        axes, position = rotation(physics.data.qpos[3:7]), observation[78:81]
        np.testing.assert_allclose(position, root[0, :3])
        np.testing.assert_allclose(observation[81:84], axes[:, 0], atol=1e-6)
        places = observation[84:].reshape(-1, 3) @ axes.T + position
        np.testing.assert_allclose(places[0], [*target, 0.05], atol=1e-5)
        robot, pillars = position[:2], places[1:, :2]
        np.testing.assert_allclose(physics.named.data.site_xpos["target"], places[0], atol=1e-5)
        if task in PAIRS[2]:
            solid = physics.named.data.geom_xpos[[f"pillar_{i}" for i in range(5)]]
            np.testing.assert_allclose(solid, places[1:], atol=1e-5)

        starts.append(np.r_[position, axes[2, 2]])
        targets.append(target)
        if task == "quadruped_cove":
            np.testing.assert_allclose(robot, [0, -3], atol=1e-6)
            np.testing.assert_allclose(target, [0, 3.2], atol=1e-6)
            cove = [[-1.5, -0.3], [-0.75, -0.1], [0, 0.1], [0.75, -0.1], [1.5, -0.3]]
            np.testing.assert_allclose(pillars, cove, atol=1e-5)
            continue
        assert abs(robot).max() <= 3 and abs(target).max() <= 3.2
        if task == "quadruped_obstacles":
            assert math.dist(robot, target) >= 4 - 1e-5
            np.testing.assert_allclose(pillars[0], (robot + target) / 2, atol=1e-5)
            assert abs(pillars[1:]).max() <= 3 + 1e-5
            assert min(math.dist(pillar, robot) for pillar in pillars) >= 1.2 - 1e-5
            assert min(math.dist(a, b) for i, a in enumerate(pillars) for b in pillars[:i]) >= 0.6 - 1e-5

    x, y, height, upright = np.array(starts).T
    if task in UPRIGHT:
        # Lifted onto nothing: always the height of one that stands on its toes.
        np.testing.assert_allclose(upright, 1)
        np.testing.assert_allclose(height, 0.52, atol=0.02)
    else:
        assert upright.min() < -0.8 and upright.max() > 0.8 and height.min() < 0.5 and height.max() < 1.1
    if task != "quadruped_cove":
        assert min(x.min(), y.min()) < -2.7 and max(x.max(), y.max()) > 2.7
        assert np.min(targets) < -3 and np.max(targets) > 3


@pytest.mark.slow
@pytest.mark.parametrize("task", GETUP)
def test_no_start_touches_the_walls(task):
    """At the very corner of where robots start, in any orientation."""
    env = envs.make(task)
    physics, rng = env._environment.physics, np.random.default_rng(0)
    for _ in range(SEEDS):
        quadruped._place(physics, np.array([3.0, -3.0]), rng.normal(size=4))
        assert physics.data.ncon == 0 and physics.data.qpos[2] < 1.1


def test_a_layout_that_cannot_be_drawn_says_so():
    class Constant(np.random.RandomState):
        def uniform(self, low, high, size):
            return np.full(size, 1.0)

    with pytest.raises(RuntimeError, match="distances"):
        quadruped.obstacles(Constant())


@pytest.mark.parametrize("task", TASKS)
def test_rewards_of_any_state(task):
    """On both paths, from the physics and from what `info` tells of it."""
    both = envs.make(task), tasks.make(task, direct=False)
    rng, rewards, successes = np.random.default_rng(0), [], []
    for seed in range(150):
        results = []
        kind = rng.choice([0, 0.3, 2])
        turn, speed, place = rng.normal(size=4) * kind + [1, 0, 0, 0], rng.normal(size=3) * kind, rng.uniform(-3, 3, 2)
        action = rng.uniform(-1, 1, 12)
        for env in both:
            _, info = env.reset(seed=seed)
            physics = env._environment.physics
            if seed % 2:
                place = info["target"] + 0.7 * kind
            with physics.reset_context():
                physics.data.qpos[:7] = [*place, 1.0, *turn / np.linalg.norm(turn)]
                physics.data.qvel[:3] = speed
            results.append(env.step(action))
        np.testing.assert_equal(*results)
        _, reward, terminated, truncated, info = results[0]
        assert not terminated and not truncated and info["env_steps"] == len(info["root"]) == 2
        target = physics.named.data.xpos["target"][:2]
        np.testing.assert_array_equal(info["target"], target.astype(np.float32))
        np.testing.assert_array_equal(
            info["root"][-1], np.r_[physics.data.qpos[:7], physics.data.qvel[:3]].astype(np.float32)
        )
        expected = [expected_reward(task, row, target) for row in info["root"].astype(np.float64)]
        assert reward == pytest.approx(sum(expected), abs=5e-6)
        rewards.append(round(reward, 3))
        if task in WITHIN:
            away = [np.hypot(*(row[:2] - target)) for row in info["root"]]
            assert info["success"] is bool(min(away) <= WITHIN[task])
            successes.append(info["success"])
    assert len(set(rewards)) > 30 and min(rewards) < 0.6 and max(rewards) > 1.9
    assert set(successes) == ({True, False} if task in WITHIN else set())


@pytest.mark.parametrize("task", TASKS)
def test_the_time_limit_truncates_and_never_terminates(task):
    env = envs.make(task, action_repeat=9)
    env.reset(seed=0)
    env_steps, ends = 0, []
    while not ends or ends[-1] == (False, False):
        _, _, terminated, truncated, info = env.step(np.zeros(12))
        ends.append((terminated, truncated))
        env_steps += info["env_steps"]
        assert len(info["root"]) == info["env_steps"] and ("success" in info) == (task in WITHIN)
    assert env_steps == LIMITS[task] and ends[-1] == (False, True)
    assert not any(terminated for terminated, _ in ends)


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_same_episode(task):
    env = envs.make(task, seed=0)
    actions = np.random.default_rng(1).uniform(-1, 1, (20, 12))
    first = play(env, 5, actions)
    assert not np.array_equal(play(env, 6, -actions)[0][0], first[0][0])
    for other in (env, envs.make(task, seed=123), tasks.make(task, direct=False)):
        np.testing.assert_equal(play(other, 5, actions), first)


@pytest.mark.parametrize("task", ["quadruped_getup_reach", "quadruped_obstacles"])
def test_together_on_threads_as_one_by_one(task):
    rewards = []

    class Log:
        def add(self, env, observation, action, reward, terminated, is_first, is_last, extras=None):
            if not is_first:
                rewards.append(np.float32(reward))

    driver = Driver([envs.make(task) for _ in range(3)], 4, Log(), threads=2)
    driver.reset()
    steps = LIMITS[task] // 2
    actions = np.random.default_rng(2).uniform(-1, 1, (steps + 3, 3, 12)).astype(np.float32)
    got = [(driver.observations, np.zeros(3))]
    for action in actions:
        driver.step(action)
        got.append((driver.observations, rewards[-3:]))
    for index in range(3):
        env, row = envs.make(task), 0
        for episode, length in enumerate((steps, 3)):
            observation, _ = env.reset(seed=episode_seed(4, index, episode))
            np.testing.assert_array_equal(got[row][0][index], observation)
            for _ in range(length):
                observation, reward, *_ = env.step(actions[row, index])
                row += 1
                assert got[row][1][index] == np.float32(reward)
            if episode:
                np.testing.assert_array_equal(got[row][0][index], observation)


@pytest.mark.parametrize("direct", [True, False])
def test_a_step_that_diverged_has_no_root(direct):
    env = tasks.make("quadruped_cove", direct=direct)
    env.reset(seed=0)
    env._environment.physics.data.qvel[0] = np.nan
    *_, terminated, truncated, info = env.step(np.zeros(12))
    assert (terminated, truncated) == (False, True) and info["diverged"] and info["env_steps"] == 1
    assert (
        info["root"].shape == (0, 10) and info["success"] is False and info["target"].tolist() == [0, np.float32(3.2)]
    )


def push(env, force, agent_steps=200):
    """Push the torso with a horizontal force [2] in newtons; returns its ways [T, 2] and which names it touched."""
    physics, way, touched = env._environment.physics, [], set()
    physics.named.data.xfrc_applied["torso", :2] = force
    for _ in range(agent_steps):
        info = env.step(np.zeros(12))[4]
        way.extend(info["root"][:, :2])
        contact = physics.data.contact
        touched |= {physics.model.id2name(geom, "geom").split("_")[0] for geom in (*contact.geom1, *contact.geom2)}
    return np.array(way), touched & {"pillar", "wall"}


@pytest.mark.parametrize("force", [1500, 3000])
def test_pillars_are_solid(force):
    """Pushed straight at the cove's target the robot is held before it; without pillars it gets there."""
    env = envs.make("quadruped_cove")
    model = env._environment.physics.named.model
    for seed in range(3):
        env.reset(seed=seed)
        way, touched = push(env, (0, force))
        assert touched == {"pillar"} and way[:, 1].max() < 0
        env.reset(seed=seed)
        model.body_pos[[f"pillar_{i}" for i in range(5)], "z"] = -9
        way, touched = push(env, (0, force))
        model.body_pos[[f"pillar_{i}" for i in range(5)], "z"] = quadruped.PILLAR_HEIGHT / 2
        assert "pillar" not in touched and np.hypot(*(way - [0, 3.2]).T).min() < 1.6


@pytest.mark.parametrize("direction", [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_walls_hold(direction):
    env = envs.make("quadruped_reach")
    env.reset(seed=0)
    way, touched = push(env, 1500 * np.array(direction))
    assert touched == {"wall"} and (way @ direction).max() > 2.5 and abs(way).max() < 4


def test_the_cove_blocks_the_straight_way_and_leaves_one_around():
    robot, target, pillars = quadruped.cove(np.random.RandomState(0))
    # Blocked: the torso's narrowest width (an ellipsoid of half-axes 0.3, 0.27, 0.2) is more than any gap.
    gaps = [math.dist(a, b) - 2 * 0.25 for a, b in itertools.pairwise(pillars)]
    assert max(gaps) < 2 * 0.2
    line = robot + np.linspace(0, 1, 200)[:, None] * (target - robot)
    assert min(math.dist(point, pillar) for point in line for pillar in pillars) < 0.25 + 0.2

    # Around: room for the torso with legs stretched out (0.91), at 0.5 m/s within the episode's 20 s.
    grid, body = 0.1, 0.91
    x = np.arange(-40, 41)
    points = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1) * grid
    free = (abs(points) <= 4 - body).all(-1)
    for pillar in pillars:
        free &= np.hypot(*np.moveaxis(points - pillar, -1, 0)) >= 0.25 + body
    length = shortest(
        free, tuple(np.rint(robot / grid).astype(int) + 40), lambda at: math.dist(points[at], target) <= 1.6
    )
    assert length * grid < 0.5 * 20


def shortest(free, start, there):
    """The length of the shortest way over free cells, in eight directions; infinite where there is none."""
    queue, best = [(0.0, start)], {start: 0.0}
    moves = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    while queue:
        length, at = heapq.heappop(queue)
        if there(at):
            return length
        for i, j in moves:
            to = at[0] + i, at[1] + j
            longer = length + math.hypot(i, j)
            if all(0 <= k < len(free) for k in to) and free[to] and longer < best.get(to, math.inf):
                best[to] = longer
                heapq.heappush(queue, (longer, to))
    return math.inf
