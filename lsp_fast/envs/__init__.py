"""Environments: every one is a `gymnasium.Env` with actions in [-1, 1] (SPEC section 1).

Observations are flat float32 features, or 64x64 pixels where they are asked for, or both (`lsp_fast.observed`).

Importing this package is cheap: gymnasium and dm_control are imported when the first environment is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gymnasium

__all__ = ["make", "task_names"]


def make(
    task: str,
    *,
    action_repeat: int = 2,
    seed: int = 0,
    obs: str = "features",
    fast_render: bool = False,
    vectors: str = "auto",
    frame: str = "auto",
    resize: bool = False,
) -> gymnasium.Env:
    """The environment of that name; see `lsp_fast.envs.dmc.DmcEnv` for what it promises.

    Args:
        task: any dm_control suite task as `domain_task`, such as cheetah_run or ball_in_cup_catch, a quadruped task of
            the paper's arena, such as quadruped_reach (`lsp_fast.envs.quadruped.TASKS`), or `gym:` and the name of a
            registered gymnasium environment with continuous actions, such as gym:Pendulum-v1.
        action_repeat: control steps (environment steps) per agent step; their rewards are summed.
        seed: of the first episode, unless `reset` names another.
        obs: "features", float32 [O]; "pixels", uint8 [64, 64, 3], which need OpenGL where the environment draws them;
            or "both" as one array of bytes, which `lsp_fast.observed.Observed` takes apart.
        fast_render: draw with small shadows and without smoothing edges: several times faster, and a little different.
        vectors, frame, resize: which entries of a `gym:` task's observation are seen, and whether frames of other sizes
            become 64x64 (`lsp_fast.config.ObservationConfig`).

    Raises:
        LspFastError: no task has that name (the nearest ones are named), what is to be observed is not there, or it
            needs OpenGL and there is none.
        ValueError: there are no such observations.
    """
    if obs not in ("features", "pixels", "both"):
        raise ValueError(f"obs must be 'features', 'pixels' or 'both', not {obs!r}")
    from lsp_fast.envs import gym

    if task.startswith(gym.PREFIX):
        return gym.make(
            task, action_repeat=action_repeat, seed=seed, obs=obs, vectors=vectors, frame=frame, resize=resize
        )
    if obs != "features":
        from lsp_fast.envs import gl

        gl.choose()  # says what is missing now, not at the first frame
    # After gymnasium's tasks, which need no dm_control: importing it takes most of a second and settles MUJOCO_GL.
    from lsp_fast.envs import tasks

    env = tasks.make(task, action_repeat=action_repeat, seed=seed, fast_render=fast_render)
    if obs == "features":
        return env
    from lsp_fast.envs.pixels import PixelEnv

    return PixelEnv(env, features=obs == "both")


def task_names() -> list[str]:
    """Every task that `make` knows but gymnasium's, sorted."""
    from lsp_fast.envs import tasks

    return tasks.task_names()
