"""Replay: what can be sampled, and the gather (SPEC sections 1 and 2)."""

import numpy as np
import pytest
from episodes import ACTION, OBSERVATION, add_episode, content, filled
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp_fast import envs
from lsp_fast.errors import CheckpointError, LspFastError
from lsp_fast.experience.driver import Driver
from lsp_fast.experience.replay import Batch, Replay
from lsp_fast.observed import Observed


def expected_row(number, row, lengths):
    return [number, row, number * 1000 + row], [row, -number] if row else [0, 0], row / 2, 0.0, row == 0


def poisoned(batch, length):
    out = Batch.empty(batch, length, (OBSERVATION,), ACTION)
    for array in out[:4]:
        array.fill(np.nan)
    out.is_first.view(np.uint8).fill(0xAA)
    return out


def assert_windows(batch, first, lengths):
    """Every window against a plain loop over the live episodes `first` .. , from its own first row."""
    for b in range(batch.reward.shape[0]):
        number, row = (int(x) for x in batch.observation[b, 0, :2])
        size, length = lengths[number], batch.reward.shape[1]
        assert row <= size - length if size >= length else row == 0
        for t in range(length):
            observation, action, reward, terminal, is_first = expected_row(number, row, lengths)
            assert batch.observation[b, t].tolist() == observation
            assert batch.action[b, t].tolist() == action
            assert (batch.reward[b, t], batch.terminal[b, t], batch.is_first[b, t]) == (reward, terminal, is_first)
            row += 1
            if row == lengths[number]:
                row, number = 0, number + 1
                if number == len(lengths):
                    number = first


@settings(deadline=None, max_examples=80)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    slack=st.integers(0, 60),
    batch=st.integers(1, 9),
    length=st.integers(1, 60),
    seed=st.integers(0, 99),
)
def test_gather_equals_a_plain_loop(lengths, slack, batch, length, seed):
    """Small capacities make episodes give way and the ring wrap; NaN in `out` must all be overwritten."""
    capacity = max(lengths) + slack
    replay = filled(lengths, capacity)
    # Eviction is at the moment of adding, so an older episode that would fit again does not come back.
    live, rows = [], 0
    for number, size in enumerate(lengths):
        while rows + size > capacity:
            rows -= lengths[live.pop(0)]
        live.append(number)
        rows += size
    assert (replay.num_episodes, replay.num_rows) == (len(live), rows)
    out = poisoned(batch, length)
    got = replay.sample(np.random.default_rng(seed), batch, length, out)
    assert got is out
    assert all(np.isfinite(array).all() for array in got[:4]) and set(np.unique(got.is_first.view(np.uint8))) <= {0, 1}
    assert set(got.observation[:, 0, 0]) <= set(live)
    assert_windows(got, live[0], lengths)
    for array, other in zip(got, replay.sample(np.random.default_rng(seed), batch, length), strict=True):
        np.testing.assert_array_equal(array, other)


def test_shapes_and_types():
    batch = filled([20, 30]).sample(np.random.default_rng(0), 4, 10)
    assert [a.shape for a in batch] == [(4, 10, OBSERVATION), (4, 10, ACTION), (4, 10), (4, 10), (4, 10)]
    assert [a.dtype for a in batch] == [np.float32] * 4 + [bool]


def test_short_episodes_run_on_and_wrap():
    batch = filled([3, 2, 20]).sample(np.random.default_rng(0), 50, 7)
    starts = {int(b[0, 0]): b for b in batch.observation}
    assert starts[0][:, :2].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [2, 0], [2, 1]]
    assert starts[1][:, :2].tolist() == [[1, 0], [1, 1], [2, 0], [2, 1], [2, 2], [2, 3], [2, 4]]
    alone = filled([2]).sample(np.random.default_rng(0), 1, 5)
    assert alone.is_first.tolist() == [[True, False, True, False, True]]


def test_episodes_are_uniform_and_starts_uniform_within():
    lengths = [10, 100, 55]
    batch = filled(lengths).sample(np.random.default_rng(0), 30_000, 10)
    numbers, rows = batch.observation[:, 0, 0], batch.observation[:, 0, 1]
    counts = np.bincount(numbers.astype(int))
    assert np.abs(counts - 10_000).max() < 5 * np.sqrt(30_000 * 2 / 9)
    starts = np.bincount(rows[numbers == 1].astype(int), minlength=91)
    assert len(starts) == 91 and np.abs(starts - counts[1] / 91).max() < 5 * np.sqrt(counts[1] / 91)


def test_only_completed_episodes_are_sampled():
    replay = Replay(1000, OBSERVATION, ACTION, num_envs=2)
    add_episode(replay, 0, 30, env=1, finish=False)
    with pytest.raises(LspFastError, match=r"29 agent steps.*1000 env steps.*2000 in all"):
        replay.sample(np.random.default_rng(0), 1, 5)
    add_episode(replay, 1, 8)
    assert (replay.num_episodes, replay.num_rows) == (1, 8)
    batch = replay.sample(np.random.default_rng(0), 50, 20)
    assert set(batch.observation[..., 0].ravel()) == {1}
    replay.add(1, np.array([0, 30, 30]), np.zeros(2), 15.0, True, False, True)
    assert (replay.num_episodes, replay.num_rows) == (2, 39)
    batch = replay.sample(np.random.default_rng(0), 200, 31)
    whole = batch.terminal[batch.observation[:, 0, 0] == 0]
    assert (whole[:, 30] == 1).all() and (whole[:, :30] == 0).all()


def test_a_new_beginning_drops_the_running_episode():
    replay = Replay(1000, OBSERVATION, ACTION)
    add_episode(replay, 0, 5, finish=False)
    add_episode(replay, 1, 4)
    assert (replay.num_episodes, replay.num_rows) == (1, 4)


def test_rows_are_copied():
    replay = Replay(100, OBSERVATION, ACTION)
    observation = np.ones(OBSERVATION, np.float32)
    replay.add(0, observation, np.zeros(ACTION), 0.0, False, True, False)
    observation.fill(7)
    replay.add(0, observation, np.zeros(ACTION), 0.0, False, False, True)
    assert replay.sample(np.random.default_rng(0), 1, 2).observation[0, :, 0].tolist() == [1, 7]


def test_memory_grows_with_what_is_stored():
    replay = Replay(10**9, OBSERVATION, ACTION)
    add_episode(replay, 0, 5000)
    add_episode(replay, 1, 5000)
    assert 10_000 <= len(replay._rows.reward) <= 20_000


def test_bad_arguments():
    replay = Replay(10, OBSERVATION, ACTION)
    zero = np.zeros(ACTION)
    with pytest.raises(ValueError, match="is_first"):
        replay.add(0, np.zeros(OBSERVATION), zero, 0.0, False, False, False)
    with pytest.raises(ValueError, match="shapes"):
        replay.add(0, np.zeros(OBSERVATION + 1), zero, 0.0, False, True, False)
    with pytest.raises(LspFastError, match="10 rows"):
        add_episode(replay, 0, 11)
    with pytest.raises(ValueError, match="capacity"):
        Replay(0, OBSERVATION, ACTION)
    replay = filled([5])
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="length"):
        replay.sample(rng, 1, 0)
    for wrong in (
        Batch.empty(2, 4, (OBSERVATION,), ACTION),
        Batch.empty(2, 3, (OBSERVATION,), ACTION)._replace(reward=np.empty((2, 3))),
        Batch.empty(2, 3, (OBSERVATION,), ACTION)._replace(reward=np.empty((3, 2), np.float32).T),
    ):
        with pytest.raises(ValueError, match="out"):
            replay.sample(rng, 2, 3, wrong)


def test_driver_and_task_together():
    replay = Replay(10_000, 17, 6, num_envs=2)
    add, rows = replay.add, []
    replay.add = lambda *row: (rows.append(row), add(*row))
    driver = Driver([envs.make("cheetah_run") for _ in range(2)], seed=0, replay=replay)
    driver.reset()
    rng = np.random.default_rng(0)
    actions = []
    for _ in range(500):
        actions.append(rng.uniform(-1, 1, (2, 6)).astype(np.float32))
        assert replay.num_episodes == 0
        driver.step(actions[-1])
    assert replay.num_episodes == 2 and replay.num_rows == 2 * 501
    batch = replay.sample(rng, 20, 501)
    told = [[row for row in rows if row[0] == env][:501] for env in (0, 1)]
    observations = np.array([[row[1] for row in one] for one in told]).swapaxes(0, 1)
    rewards = np.array([[row[3] for row in one] for one in told], np.float32).swapaxes(0, 1)
    for observation, action, reward, terminal, is_first in zip(*batch, strict=True):
        env = 0 if np.array_equal(observation[0], observations[0][0]) else 1
        np.testing.assert_array_equal(observation, observations[:, env])
        np.testing.assert_array_equal(action, np.concatenate([np.zeros((1, 6)), np.stack(actions)[:, env]]))
        np.testing.assert_array_equal(reward, rewards[:, env])
        assert not terminal.any() and is_first[0] and not is_first[1:].any()


@pytest.mark.parametrize("capacity", [10_000, 40])
def test_observation_statistics(capacity):
    replay = filled([10, 20, 15, 12], capacity)
    rows = content(replay).observation.astype(np.float64)
    mean, std = replay.observation_statistics()
    assert mean.dtype == std.dtype == np.float32
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, rows.std(0), rtol=1e-6)
    constant = Replay(10, 1, 1)
    for row in range(10):
        constant.add(0, np.array([1e4]), np.zeros(1), 0.0, False, row == 0, row == 9)
    assert [x.tolist() for x in constant.observation_statistics()] == [[1e4], [0.0]]
    with pytest.raises(LspFastError, match="no completed episode"):
        Replay(10, 1, 1).observation_statistics()


@pytest.mark.parametrize("where", ["observation", "action", "reward"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_never_gets_in(where, bad):
    replay = Replay(10, 2, 1)
    row = {"observation": np.zeros(2), "action": np.zeros(1), "reward": 0.0}
    replay.add(0, *row.values(), False, True, False)
    row[where] = row[where] + bad
    with pytest.raises(LspFastError, match="not finite, 1 agent steps into its episode"):
        replay.add(0, *row.values(), False, False, True)
    assert replay.num_episodes == 0


def test_pictures_are_kept_and_sampled_as_they_are(tmp_path):
    shape = (4, 5, 3)
    replay = Replay(20, shape, 2, dtype=np.uint8)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, *shape), np.uint8)
    for t, frame in enumerate(frames):
        replay.add(0, frame, np.zeros(2), float(t), False, t == 0, t == 7)
    batch = replay.sample(np.random.default_rng(1), 3, 4)
    assert batch.observation.dtype == np.uint8 and batch.observation.shape == (3, 4, *shape)
    for window, rewards in zip(batch.observation, batch.reward, strict=True):
        assert np.array_equal(window, frames[rewards.astype(int)])
    state = replay.save(tmp_path)
    assert (tmp_path / "observation.u8").stat().st_size == 8 * 60
    again = Replay(20, shape, 2, dtype=np.uint8)
    again.load(tmp_path, state)
    other = again.sample(np.random.default_rng(1), 3, 4)
    assert all(np.array_equal(a, b) for a, b in zip(batch, other, strict=True))
    with pytest.raises(CheckpointError, match="damaged"):
        Replay(20, 60, 2).load(tmp_path, state)
    with pytest.raises(ValueError, match="shapes"):
        replay.add(0, frames[0][:2], np.zeros(2), 0.0, False, True, False)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 25), min_size=1, max_size=8), st.integers(1, 6), st.integers(0, 100))
def test_segments_begin_at_multiples_and_stay_in_their_episode(lengths, steps, seed):
    replay = Replay(max(sum(lengths) - 7, *(n + 1 for n in lengths)), 1, 1, extras_dim=2)
    for episode, length in enumerate(lengths):
        for t in range(length + 1):
            beside = np.array([episode, t], np.float32)
            replay.add(0, [100 * episode + t], [0.0], 1.0, t == length, t == 0, t == length, beside)
    kept = [rows.extras[0, 0] for rows in replay.episodes()]
    assert [len(rows.reward) - 1 for rows in replay.episodes()] == lengths[-len(kept) :]
    possible = {(e, b) for e in kept for b in range(0, lengths[int(e)], steps)}
    found = replay.segments(np.random.default_rng(seed), 300, steps)
    assert found.observation.shape == (300, steps + 1, 1) and found.extras.shape == (300, steps + 1, 2)
    assert (found.extras[:, :, 0] == found.extras[:, :1, 0]).all()
    # An episode's last segment is short; its last row is repeated, without the reward.
    begins, ends = found.extras[:, 0, 1], np.array([lengths[int(e)] for e in found.extras[:, 0, 0]])
    np.testing.assert_array_equal(found.steps, np.minimum(ends - begins, steps))
    inside = np.minimum(np.arange(steps + 1), found.steps[:, None])
    np.testing.assert_array_equal(found.extras[:, :, 1] - begins[:, None], inside)
    np.testing.assert_array_equal(found.reward[:, 1:].sum(1), found.steps)
    np.testing.assert_array_equal(found.terminal[:, -1], begins + found.steps == ends)
    np.testing.assert_array_equal(found.observation[..., 0], 100 * found.extras[..., 0] + found.extras[..., 1])
    drawn = [tuple(pair) for pair in found.extras[:, 0].tolist()]
    assert set(drawn) <= possible
    if len(possible) <= 20:  # each of them equally likely
        assert set(drawn) == possible


def both_of(rows, seed=0):
    """A replay of so many rows of frame and numbers, and what went in."""
    sizes, rng = Observed(3, (4, 4, 3)), np.random.default_rng(seed)
    replay = Replay(100, sizes.plain, ACTION)
    frames = rng.integers(0, 256, (rows, 4, 4, 3), dtype=np.uint8)
    numbers = rng.normal(size=(rows, 3)).astype(np.float32)
    for t in range(rows):
        row = sizes.pack({"frame": frames[t], "vector": numbers[t]})
        replay.add(0, row, np.zeros(ACTION), 0.0, False, t == 0, t == rows - 1)
    return replay, sizes, frames, numbers


def test_both_come_out_as_they_went_in():
    replay, sizes, frames, numbers = both_of(9)
    assert replay.dtype == np.uint8 and replay.observation_shape == (48 + 12,)
    batch = replay.sample(np.random.default_rng(0), 2, 9)
    assert batch.observation.shape == (2, 9, 60)
    for b in range(2):
        np.testing.assert_array_equal(sizes.frames(batch.observation[b]), frames)
        np.testing.assert_array_equal(sizes.numbers(batch.observation[b]), numbers)


def test_statistics_of_both_are_the_numbers():
    replay, _, _, numbers = both_of(9)
    mean, std = replay.observation_statistics()
    np.testing.assert_allclose(mean, numbers.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, numbers.std(0), rtol=1e-6)


def test_a_number_of_both_that_is_not_finite_is_refused():
    replay, sizes, frames, numbers = both_of(2)
    numbers[1, 2] = np.nan
    row = sizes.pack({"frame": frames[1], "vector": numbers[1]})
    with pytest.raises(LspFastError, match=r"not finite.*observation \[.*nan\]"):
        replay.add(0, row, np.zeros(ACTION), 0.0, False, True, False)


def test_both_are_read_back_from_disk(tmp_path):
    replay, sizes, frames, numbers = both_of(9)
    state = replay.save(tmp_path)
    again = Replay(100, sizes.plain, ACTION)
    again.load(tmp_path, state)
    np.testing.assert_array_equal(content(again).observation, content(replay).observation)
    # As docs/tasks.md says how to read it.
    row = np.dtype([("frame", "u1", sizes.frame), ("vector", "<f4", (3,))])
    rows = np.fromfile(tmp_path / "observation.u8", row)
    np.testing.assert_array_equal(rows["frame"], frames)
    np.testing.assert_array_equal(rows["vector"], numbers)
    with pytest.raises(CheckpointError, match="60"):
        Replay(100, Observed(4, sizes.frame).plain, ACTION).load(tmp_path, state)
