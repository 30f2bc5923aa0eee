"""Environments: dm_control's own step, the direct path and MuJoCo alone; several together, beside EnvPool."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from measure import Work

from lsp_fast.envs import dmc, tasks
from lsp_fast.envs import suite as suite_of
from lsp_fast.experience.driver import Driver, episode_seed

REPEAT = 2
CONTROL_STEPS = 1000
"""Of one call of a variant: a whole episode with its reset."""
TOGETHER = 8


def works() -> Iterator[Work]:
    """Random actions; milliseconds are of one control step of one environment."""
    for task in ("walker_walk", "cheetah_run", "hopper_hop", "quadruped_walk"):
        yield alone(task)
    for task in ("quadruped_walk", "cheetah_run"):
        yield together(task)


def alone(task: str) -> Work:
    """One environment. The variants play the same episodes; `mj_step` has no observations and no rewards."""
    from mujoco import mj_step

    env = tasks.make(task, action_repeat=REPEAT)
    reference, reference_random = dm_control(task)
    floor, floor_random = dm_control(task)
    model, data = floor.physics.model.ptr, floor.physics.data.ptr
    substeps = round(floor.control_timestep() / floor.physics.timestep())
    actions = random_actions(env.action_space.shape)
    controls = np.repeat([env._control(action) for action in actions], REPEAT, axis=0)

    def play_direct() -> list[np.ndarray]:
        return [env.reset(seed=0)[0]] + [env.step(action)[0] for action in actions]

    def play_reference() -> list[np.ndarray]:
        reference_random.seed(0)
        steps = [reference.reset()] + [reference.step(control) for control in controls]
        return [step.observation for step in steps[::REPEAT]]

    def play_floor() -> None:
        floor_random.seed(0)
        floor.reset()
        ctrl = data.ctrl
        for control in controls:
            ctrl[:] = control
            mj_step(model, data, substeps)

    for got, expected in zip(play_direct(), play_reference(), strict=True):
        np.testing.assert_array_equal(got, dmc.flatten(expected))
    play_floor()
    np.testing.assert_array_equal(data.qpos, reference.physics.data.qpos)
    return Work(
        f"{task}, one environment",
        "dm_control",
        {"dm_control": play_reference, "direct": play_direct, "mj_step alone": play_floor},
        calls=CONTROL_STEPS,
    )


class Rewards:
    """What a driver's rows add up to."""

    total = 0.0

    def add(self, env: int, observation: np.ndarray, action: np.ndarray, reward: float, *rest: object) -> None:
        self.total += float(np.float32(reward))


def together(task: str) -> Work:
    """Several environments stepped together: dm_control's one after the other, ours by a driver.

    Both play the same episodes in every call; EnvPool, with generators of its own, plays others.
    """
    references = [dm_control(task) for _ in range(TOGETHER)]
    single = tasks.make(task, action_repeat=REPEAT)
    actions = random_actions((TOGETHER, *single.action_space.shape))
    spec = references[0][0].action_spec()
    controls = np.repeat([[single._control(row) for row in action] for action in actions], REPEAT, axis=0)

    def drive(threads: int) -> Callable[[], float]:
        rewards = Rewards()
        driver = Driver([tasks.make(task, action_repeat=REPEAT) for _ in range(TOGETHER)], 0, rewards, threads=threads)
        driver.reset()
        start = driver.state()

        def play() -> float:
            driver.load(start)
            rewards.total = 0.0
            for action in actions:
                driver.step(action)
            return rewards.total

        return play

    def play_references() -> float:
        for index, (environment, random) in enumerate(references):
            random.seed(episode_seed(0, index, 0))
            environment.reset()
        return sum(
            environment.step(control).reward
            for control_row in controls
            for (environment, _), control in zip(references, control_row, strict=True)
        )

    variants = {"dm_control": play_references, "direct, 1 thread": drive(1), "direct, 2 threads": drive(2)}
    returns = [variant() for variant in variants.values()]
    np.testing.assert_allclose(returns[1:], returns[0], rtol=1e-4)  # of float32 rewards
    missing: dict[str, str] = {}
    for threads in (1, 2):
        name = f"EnvPool, {threads} thread{'s' * (threads > 1)}"
        try:
            variants[name] = envpool(task, controls, spec.shape, threads)
        except Exception as error:  # its import reads files of several packages, any of which may be missing
            missing[name] = f"{type(error).__name__}: {error}"
    return Work(
        f"{task}, {TOGETHER} environments", "dm_control", variants, calls=CONTROL_STEPS * TOGETHER, missing=missing
    )


def envpool(task: str, controls: np.ndarray, shape: tuple[int, ...], threads: int) -> Callable[[], object]:
    """EnvPool's own version of the task, a control step at a time: it has no action repeat with summed rewards."""
    import envpool as package

    name = "".join(part.title() for part in task.split("_")) + "-v1"
    pool = package.make_gymnasium(name, num_envs=TOGETHER, num_threads=threads, seed=0)
    assert pool.action_space.shape == shape

    def play() -> None:
        pool.reset()
        for control in controls:
            pool.step(control)

    play()
    return play


def dm_control(task: str) -> tuple:
    """dm_control's environment and the generator that it draws from."""
    domain, name = suite_of.suite_tasks()[task]  # sets MUJOCO_GL before the import
    from dm_control import suite

    random = np.random.RandomState(0)
    return suite.load(domain, name, task_kwargs={"random": random}), random


def random_actions(shape: tuple[int, ...]) -> np.ndarray:
    """[agent steps, *shape] in [-1, 1], float32 as a policy's."""
    return np.random.default_rng(0).uniform(-1, 1, (CONTROL_STEPS // REPEAT, *shape)).astype(np.float32)
