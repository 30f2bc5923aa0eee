"""Names of dm_control's and the arena's tasks, and environments for them."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np

from lsp_fast.envs import quadruped
from lsp_fast.envs.dmc import EPISODE_ENV_STEPS, DmcEnv
from lsp_fast.envs.suite import suite, suite_tasks
from lsp_fast.errors import LspFastError


def make(task: str, *, action_repeat: int = 2, seed: int = 0, fast_render: bool = False, direct: bool = True) -> DmcEnv:
    """A task of `task_names` as an environment; `lsp_fast.envs.make` documents arguments and errors.

    Tasks that `lsp_fast.envs.direct` knows step MuJoCo without dm_control, to the same bits; `direct=False` takes
    dm_control's own path for them too.
    """
    if task not in (tasks := task_names()):
        near = difflib.get_close_matches(task, tasks, n=3, cutoff=0.4)
        hint = f"the nearest are {', '.join(near)}" if near else f"there are {', '.join(tasks)}"
        raise LspFastError(f"unknown task {task!r}; {hint}")
    # lqr draws its springs while it is built. A fixed seed here makes the task the same whatever the seed of its
    # episodes, so that several environments and the evaluation share one dynamics.
    random_state = np.random.RandomState(0)
    options: dict[str, Any] = {"action_repeat": action_repeat, "seed": seed, "max_env_steps": EPISODE_ENV_STEPS}
    # The usual views: the quadruped's camera 0 follows it from 17 m away, 2 from 4.5 m.
    options["camera"] = 2 if task.startswith("quadruped") else 0
    if task in quadruped.TASKS:
        environment = quadruped.load(task, random_state)
        environment.reset()
        options["max_env_steps"] = quadruped.TASKS[task].env_steps
        options["step_info"] = quadruped.step_info(task, environment)
    else:
        environment = _load(task, random_state)
    if fast_render:
        quality = environment.physics.model.vis.quality
        quality.shadowsize, quality.offsamples = 256, 0
    if direct:
        from lsp_fast.envs.direct import DirectEnv, recipe  # brings numba

        if (built := recipe(task, environment)) is not None:
            return DirectEnv(environment, random_state, built, **options)
    return DmcEnv(environment, random_state, **options)


def task_names() -> list[str]:
    """Every task that `make` knows, sorted: the suite's and the arena's."""
    return sorted([*suite_tasks(), *quadruped.TASKS])


def _load(task: str, random_state: np.random.RandomState) -> Any:
    """The suite task as dm_control's environment, reset once."""
    domain, name = suite_tasks()[task]
    try:
        environment = suite().load(domain, name, task_kwargs={"random": random_state})
        environment.reset()
    except RuntimeError as error:
        if "OpenGL" not in str(error):
            raise
        raise LspFastError(
            f"task {task!r} needs OpenGL even without pixels: {error} Set MUJOCO_GL=egl (packages libegl1 libgl1 "
            "libgl1-mesa-dri) or MUJOCO_GL=osmesa (package libosmesa6)"
        ) from error
    return environment
