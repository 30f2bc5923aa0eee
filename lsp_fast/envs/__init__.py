"""Environments: every one is a `gymnasium.Env` with actions in [-1, 1] (SPEC section 1).

Observations are flat float32 features, or 64x64 pixels where they are asked for.

Importing this package is cheap: gymnasium and dm_control are imported when the first environment is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lsp_fast.errors import LspFastError

if TYPE_CHECKING:
    import gymnasium

__all__ = ["make", "task_names"]


def make(
    task: str, *, action_repeat: int = 2, seed: int = 0, obs: str = "features", fast_render: bool = False
) -> gymnasium.Env:
    """The environment of that name; see `lsp_fast.envs.dmc.DmcEnv` for what it promises.

    Args:
        task: any dm_control suite task as `domain_task`, such as cheetah_run or ball_in_cup_catch, a quadruped task of
            the paper's arena, such as quadruped_reach (`lsp_fast.envs.quadruped.TASKS`), or `gym:` and the name of a
            registered gymnasium environment with continuous actions, such as gym:Pendulum-v1.
        action_repeat: control steps (environment steps) per agent step; their rewards are summed.
        seed: of the first episode, unless `reset` names another.
        obs: "features", float32 [O], or "pixels", uint8 [64, 64, 3] (`lsp_fast.envs.pixels`), which needs OpenGL.
        fast_render: draw with small shadows and without smoothing edges: several times faster, and a little different.

    Raises:
        LspFastError: no task has that name (the nearest ones are named), it has no pixels, or it needs OpenGL and there
            is none.
        ValueError: there are no such observations.
    """
    if obs not in ("features", "pixels"):
        raise ValueError(f"obs must be 'features' or 'pixels', not {obs!r}")
    if obs == "pixels":
        from lsp_fast.envs import gl

        gl.choose()  # says what is missing now, not at the first frame
    from lsp_fast.envs import gym

    if task.startswith(gym.PREFIX):
        if obs == "pixels":
            raise LspFastError(f"task {task!r} has no pixels: only dm_control's tasks and the arena's have")
        return gym.make(task, action_repeat=action_repeat, seed=seed)
    # After gymnasium's tasks, which need no dm_control: importing it takes most of a second and settles MUJOCO_GL.
    from lsp_fast.envs import tasks

    env = tasks.make(task, action_repeat=action_repeat, seed=seed, fast_render=fast_render)
    if obs == "features":
        return env
    from lsp_fast.envs.pixels import PixelEnv

    return PixelEnv(env)


def task_names() -> list[str]:
    """Every task that `make` knows but gymnasium's, sorted."""
    from lsp_fast.envs import tasks

    return tasks.task_names()
