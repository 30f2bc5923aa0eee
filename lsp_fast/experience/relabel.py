"""Rewards that another task of the arena would have given for the same steps (SPEC section 5, transfer).

What a task of the family tells of every control step, the torso's position, orientation and velocity, and the target's
place decide every reward of the family. A replay keeps them with its rows as `extras`: 10 * action_repeat numbers
of the control steps (position and quaternion, qpos[:7]; velocity in the world's frame, qvel[:3]), how many of those
steps there were, and the target [2].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.extending import register_jitable

from lsp_fast.envs.rewards import ramp, reaching, standing, walking
from lsp_fast.errors import ConfigError
from lsp_fast.experience.replay_files import Rows

ROOT = 10
"""Numbers of a control step."""
PREFIX = "quadruped_"
UNTOLD = -1.0
"""Every number beside a row of recorded data, which does not tell them."""


def keeps_extras(task: str) -> bool:
    """Whether the steps of this task can be relabelled."""
    if not task.startswith(PREFIX):
        return False
    from lsp_fast.envs.quadruped import TASKS

    return task in TASKS


def extras_dim(task: str, action_repeat: int) -> int:
    """Numbers kept with a row; 0 for tasks that tell nothing."""
    return ROOT * action_repeat + 3 if keeps_extras(task) else 0


def extras(info: dict[str, Any], action_repeat: int) -> np.ndarray:
    """A step's `info` as one row of numbers, float32 [10 * action_repeat + 3]. Absent control steps are zeros."""
    row = np.zeros(ROOT * action_repeat + 3, np.float32)
    roots = info["root"][:action_repeat]  # at a reset there is one, which earned nothing
    row[: roots.size] = roots.reshape(-1)
    row[-3] = len(roots)
    row[-2:] = info["target"]
    return row


def relabeller(source: str, target: str, action_repeat: int) -> Callable[[Rows], np.ndarray]:
    """The function that gives rows of `source` the rewards of `target`, float32 [R].

    Raises:
        ConfigError: the rewards would not be those that the target task gives: a task outside the family, or another
            layout of the floor, in which the same actions lead elsewhere.
    """
    for task in (source, target):
        if not keeps_extras(task):
            raise ConfigError(
                f"{source} cannot be relabelled as {target}: {task} is not one of the arena's tasks, whose rewards "
                "follow from what a replay keeps; leave --relabel out"
            )
    from lsp_fast.envs.quadruped import TASKS

    here, there = TASKS[source], TASKS[target]
    if here.layout is not there.layout:
        raise ConfigError(
            f"{source} cannot be relabelled as {target}: their floors differ, so that the same actions lead elsewhere; "
            "leave --relabel out"
        )
    within = -1.0 if there.within is None else there.within

    def rewards(rows: Rows) -> np.ndarray:
        if (rows.extras[:, ROOT * action_repeat] < 0).any():
            raise ConfigError(
                f"{source} cannot be relabelled as {target}: it holds recorded data, which does not tell what the "
                "rewards follow from; leave --relabel out"
            )
        return _rewards(rows.extras, rows.is_first, action_repeat, within, there.margin)

    return rewards


for _formula in (ramp, standing, walking, reaching):
    register_jitable(_formula)  # compiled where compiled code calls it, plain Python elsewhere


# Not cached on disk, where a change of the formulas, in a file of their own, would not show.
@numba.njit(nogil=True)
def _rewards(extras, is_first, repeat, within, margin):  # pragma: no cover - compiled
    """Summed rewards of every row's control steps; `within` below 0 rewards forward speed."""
    rows = extras.shape[0]
    out = np.zeros(rows, np.float32)
    for row in range(rows):
        if is_first[row]:
            continue
        total = 0.0
        for step in range(int(extras[row, 10 * repeat])):
            at = 10 * step
            w, x, y, z = extras[row, at + 3], extras[row, at + 4], extras[row, at + 5], extras[row, at + 6]
            # float32 leaves a quaternion 1e-7 off unit length.
            scale = 1.0 / (w * w + x * x + y * y + z * z)
            upright = 1.0 - 2.0 * (x * x + y * y) * scale
            if within < 0.0:
                # The torso's x-axis in the world's frame, times the velocity there.
                forward = (
                    (1.0 - 2.0 * (y * y + z * z) * scale) * extras[row, at + 7]
                    + 2.0 * (x * y + w * z) * scale * extras[row, at + 8]
                    + 2.0 * (x * z - w * y) * scale * extras[row, at + 9]
                )
                total += walking(upright, forward)
            else:
                dx = extras[row, at] - extras[row, 10 * repeat + 1]
                dy = extras[row, at + 1] - extras[row, 10 * repeat + 2]
                total += reaching(upright, np.sqrt(dx * dx + dy * dy), within, margin)
        out[row] = total
    return out
