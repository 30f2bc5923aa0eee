"""Environments: every one is a `gymnasium.Env` with flat float32 observations and actions in [-1, 1] (SPEC section 1).

Importing this package is cheap: gymnasium and dm_control are imported when the first environment is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gymnasium

__all__ = ["make", "task_names"]


def make(task: str, *, action_repeat: int = 2, seed: int = 0) -> gymnasium.Env:
    """The environment of that name; see `lsp_fast.envs.dmc.DmcEnv` for what it promises.

    Args:
        task: any dm_control suite task as `domain_task`, such as cheetah_run or ball_in_cup_catch, a quadruped task of
            the paper's arena, such as quadruped_reach (`lsp_fast.envs.quadruped.TASKS`), or `gym:` and the name of a
            registered gymnasium environment with continuous actions, such as gym:Pendulum-v1.
        action_repeat: control steps (environment steps) per agent step; their rewards are summed.
        seed: of the first episode, unless `reset` names another.

    Raises:
        LspFastError: no task has that name (the nearest ones are named), or it needs OpenGL and there is none.
    """
    from lsp_fast.envs import dmc, gym

    if task.startswith(gym.PREFIX):
        return gym.make(task, action_repeat=action_repeat, seed=seed)
    return dmc.make(task, action_repeat=action_repeat, seed=seed)


def task_names() -> list[str]:
    """Every task that `make` knows but gymnasium's, sorted."""
    from lsp_fast.envs import dmc

    return dmc.task_names()
