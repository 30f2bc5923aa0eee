"""The rewards' formulas against dm_control's own function, to the bit, in Python and compiled."""

import math

import numba
import numpy as np
import pytest
from dm_control.utils.rewards import tolerance

from lsp_fast.envs import rewards
from lsp_fast.envs.quadruped import TASKS
from lsp_fast.experience import relabel

REACH = [arena for arena in TASKS.values() if arena.within is not None]


def linear(x, bounds, margin, at_margin):
    return tolerance(x, bounds, margin=margin, value_at_margin=at_margin, sigmoid="linear")


def standing(upright):
    return linear(upright, (1, math.inf), 2, 0)


def test_ramp_is_tolerance():
    for lower, margin, at_margin in ((1.0, 2.0, 0.0), (0.5, 0.5, 0.5), (10.0, 10.0, 0.0), (8.0, 4.0, 0.5)):
        for x in (*np.random.default_rng(0).uniform(-20, 20, 200), lower, lower - margin, lower - 2 * margin, np.nan):
            assert rewards.ramp(x, lower, margin, at_margin) == linear(x, (lower, math.inf), margin, at_margin)


def test_walking_is_tolerance():
    rng = np.random.default_rng(0)
    for upright, speed in [*rng.uniform([-1, -1], [1, 1], (500, 2)).tolist(), (1.0, 0.5), (1.0, 0.0), (-1.0, 0.6)]:
        moving = linear(speed, (0.5, math.inf), 0.5, 0.5)
        assert rewards.walking(upright, speed) == standing(upright) * moving


@pytest.mark.parametrize("arena", REACH, ids=lambda arena: f"{arena.within}-{arena.margin:.2f}")
def test_reaching_is_tolerance(arena):
    """With the distance's own bounds, from 0 to where it is reached."""
    rng, within, margin = np.random.default_rng(0), arena.within, arena.margin
    places = [0.0, within, np.nextafter(within, 9), within + margin, within + 2 * margin]
    for distance in (*rng.uniform(0, 9, 500).tolist(), *places):
        upright = rng.uniform(-1, 1)
        near = linear(distance, (0, within), margin, 0)
        assert rewards.reaching(upright, distance, within, margin) == standing(upright) * near


def test_compiled_is_the_same():
    """As relabelling computes them."""
    assert relabel.walking is rewards.walking and relabel.reaching is rewards.reaching
    walking, reaching = rewards.walking, rewards.reaching

    @numba.njit
    def compiled(upright, speed, distance, within, margin):
        return walking(upright, speed), reaching(upright, distance, within, margin)

    for upright, speed, distance in np.random.default_rng(1).uniform([-1, -1, 0], [1, 1, 9], (200, 3)).tolist():
        for arena in REACH:
            expected = walking(upright, speed), reaching(upright, distance, arena.within, arena.margin)
            assert compiled(upright, speed, distance, arena.within, arena.margin) == expected
