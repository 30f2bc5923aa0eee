"""Relabelled rewards against the target task's own on the same physics (SPEC section 6)."""

import numpy as np
import pytest

from lsp_fast.envs import tasks
from lsp_fast.envs.quadruped import TASKS, ArenaTask
from lsp_fast.errors import ConfigError
from lsp_fast.experience import relabel
from lsp_fast.experience.replay import Rows

OPEN = [name for name, arena in TASKS.items() if arena.layout is TASKS["quadruped_reach"].layout]
PAIRS = [(a, b) for a in OPEN for b in OPEN] + [(name, name) for name in TASKS if name not in OPEN]


def rows_of(tracks, firsts):
    count = len(tracks)
    still = (np.zeros((count, 1), np.float32), np.zeros(count, np.float32))
    return Rows(still[0], still[0], still[1], still[1], np.array(firsts), np.array(tracks))


@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("direct", [True, False])
def test_rewards_are_the_targets_own_on_the_same_physics(source, target, direct):
    repeat = 2
    env = tasks.make(source, action_repeat=1, direct=direct)
    physics = env._environment.physics
    judge = ArenaTask(TASKS[target], np.random.RandomState(0))
    rng = np.random.default_rng(3)
    expected, tracks, firsts = [], [], []
    for episode in range(3):
        _, info = env.reset(seed=episode)
        tracks.append(relabel.extras(info, repeat))
        expected.append(0.0)
        firsts.append(True)
        for _ in range(40):
            action, roots, total = rng.uniform(-1, 1, 12), [], 0.0
            for _ in range(repeat):
                _, _, _, _, info = env.step(action)
                roots.append(info["root"])
                total += judge.get_reward(physics)
            tracks.append(relabel.extras({**info, "root": np.concatenate(roots)}, repeat))
            expected.append(total)
            firsts.append(False)
        # Close to the target, upright and fast, so that every branch is met.
        place = physics.named.data.xpos["target"][:2]
        for away in (0.1, 0.39, 0.41, 1.0, 1.59, 1.61):
            with physics.reset_context():
                physics.named.data.qpos["root"] = [place[0] + away, place[1], 1.0, 1, 0, 0, 0]
                physics.data.qvel[:3] = (0.6 - away, 0.2, 0.1)
            root = np.concatenate([physics.data.qpos[:7], physics.data.qvel[:3]])[None]
            tracks.append(relabel.extras({**info, "root": root}, repeat))
            expected.append(judge.get_reward(physics))
            firsts.append(False)
    actual = relabel.relabeller(source, target, repeat)(rows_of(tracks, firsts))
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6)
    assert max(expected) > 0.1 or target == "quadruped_cove"


def test_a_step_that_ended_early_counts_what_there_was():
    info = {"root": np.array([[0, 0, 1, 1, 0, 0, 0, 0, 0, 0]]), "target": np.array([0.0, 0.0])}
    row = relabel.extras(info, 2)
    assert row.shape == (23,) and row[20] == 1
    reach = relabel.relabeller("quadruped_reach", "quadruped_reach", 2)
    assert reach(rows_of([row, row], [True, False])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("quadruped_walk", "quadruped_reach", "quadruped_walk is not one of the arena"),
        ("quadruped_reach", "cheetah_run", "cheetah_run is not one of the arena"),
        ("quadruped_getup_walk", "quadruped_cove", "floors differ"),
        ("quadruped_obstacles", "quadruped_cove", "floors differ"),
    ],
)
def test_what_is_not_exact_is_refused(source, target, reason):
    with pytest.raises(ConfigError, match=reason):
        relabel.relabeller(source, target, 2)


def test_only_the_arena_pays_for_it():
    assert relabel.extras_dim("cheetah_run", 2) == relabel.extras_dim("quadruped_walk", 2) == 0
    assert relabel.extras_dim("quadruped_reach", 2) == 23
