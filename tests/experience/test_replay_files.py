"""A replay's files: saving, loading, and what is refused (SPEC section 2)."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from episodes import ACTION, OBSERVATION, add_episode, content, filled
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp_fast.errors import CheckpointError
from lsp_fast.experience.replay import Replay

FILES = ("observation.f32", "action.f32", "reward.f32", "terminal.f32", "is_first.u8")


def assert_same(one, other):
    assert (one.num_episodes, one.num_rows) == (other.num_episodes, other.num_rows)
    for a, b in zip(content(one), content(other), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(*(r.sample(np.random.default_rng(1), 8, 6) for r in (one, other)), strict=True):
        np.testing.assert_array_equal(a, b)


def reloaded(folder, state, capacity=10_000):
    replay = Replay(capacity, OBSERVATION, ACTION)
    replay.load(folder, json.loads(json.dumps(state)))
    return replay


def sizes(folder):
    return [(folder / name).stat().st_size for name in FILES]


ROW_BYTES = np.array([4 * OBSERVATION, 4 * ACTION, 4, 4, 1])


def test_save_appends_and_load_gives_it_back(tmp_path):
    folder = tmp_path / "replay"
    replay = filled([5, 9])
    first = replay.save(folder)
    assert sizes(folder) == (14 * ROW_BYTES).tolist()
    before = [(folder / name).read_bytes() for name in FILES]
    add_episode(replay, 2, 7, terminated=True)
    add_episode(replay, 3, 4, finish=False)
    second = replay.save(folder)
    assert sizes(folder) == (21 * ROW_BYTES).tolist()  # the running episode is not in it
    assert all((folder / name).read_bytes().startswith(old) for name, old in zip(FILES, before, strict=True))
    assert replay.save(folder) == second
    again = reloaded(folder, second)
    assert again.num_episodes == 3
    assert_same(again, replay)
    with pytest.raises(ValueError, match="is_first"):  # running episodes begin anew
        again.add(0, np.zeros(OBSERVATION), np.zeros(ACTION), 0.0, False, False, False)
    # The earlier checkpoint is still good; what came after it is cut by the next save, not by looking.
    old = reloaded(folder, first)
    assert sizes(folder) == (21 * ROW_BYTES).tolist()
    assert_same(old, filled([5, 9]))
    assert old.save(folder) == first and sizes(folder) == (14 * ROW_BYTES).tolist()
    add_episode(old, 2, 3)
    assert_same(reloaded(folder, old.save(folder)), old)


@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.lists(st.integers(1, 12), max_size=6), min_size=1, max_size=6),
    slack=st.integers(0, 20),
)
def test_save_and_load_whatever_was_evicted(tmp_path_factory, lengths, slack):
    folder = tmp_path_factory.mktemp("replay")
    replay = Replay(12 + slack, OBSERVATION, ACTION)
    number, state = 0, {"rows": 0}
    for part in lengths:
        for rows in part:
            add_episode(replay, number, rows)
            number += 1
        written = state["rows"]
        state = replay.save(folder)
        assert state["rows"] - written <= replay.num_rows  # what gave way before it was saved is not written
        again = Replay(12 + slack, OBSERVATION, ACTION)
        again.load(folder, json.loads(json.dumps(state)))
        for a, b in zip(content(again), content(replay), strict=True):
            np.testing.assert_array_equal(a, b)
        assert again._lengths == replay._lengths
        if number % 2:
            replay = again


def test_a_smaller_capacity_keeps_the_newest(tmp_path):
    replay = filled([5, 9, 7])
    state = replay.save(tmp_path)
    smaller = reloaded(tmp_path, state, capacity=17)
    assert (smaller.num_episodes, smaller.num_rows) == (2, 16)
    assert set(content(smaller).observation[:, 0]) == {1, 2}


def test_an_empty_replay_saves_and_loads(tmp_path):
    again = reloaded(tmp_path, Replay(10, OBSERVATION, ACTION).save(tmp_path))
    assert (again.num_episodes, again.num_rows) == (0, 0)
    add_episode(again, 0, 3)
    assert reloaded(tmp_path, again.save(tmp_path)).num_rows == 3


def test_a_first_save_begins_the_files_anew(tmp_path):
    filled([30]).save(tmp_path)  # left by a run that never stored its checkpoint
    replay = filled([5])
    assert_same(reloaded(tmp_path, replay.save(tmp_path)), replay)


def test_another_folder_receives_everything(tmp_path):
    replay = filled([5, 9])
    replay.save(tmp_path / "one")
    add_episode(replay, 2, 4)
    assert_same(reloaded(tmp_path / "two", replay.save(tmp_path / "two")), replay)


def test_a_save_that_failed_half_way_can_be_repeated(tmp_path, monkeypatch):
    replay = filled([5])
    first = replay.save(tmp_path)
    add_episode(replay, 1, 6)
    real, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="space"):
            replay.save(tmp_path)
    assert sizes(tmp_path)[0] > sizes(tmp_path)[4] * ROW_BYTES[0]
    assert_same(reloaded(tmp_path, replay.save(tmp_path)), replay)
    assert_same(reloaded(tmp_path, first), filled([5]))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "shorter", "foreign"])
def test_a_bad_file_is_named(tmp_path, name, damage):
    state = filled([5, 9]).save(tmp_path)
    path = Path(tmp_path / name)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "shorter":
        path.write_bytes(data[:-1])
    else:
        path.write_bytes(bytes(len(data)) if name != FILES[3] else b"\1" * len(data))
    replay = filled([3])
    with pytest.raises(CheckpointError, match=name):
        replay.load(tmp_path, state)
    assert (replay.num_episodes, replay.num_rows) == (1, 3)  # unchanged
    assert_same(replay, filled([3]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 99}, "version 99; this program reads 1"),
        ({"version": 99, "rows": -1}, "version 99"),  # what an older program cannot judge is not called damaged
        ({"observation_dim": 4}, "actions of 4 and 2 numbers; this task has 3 and 2"),
        ({"observation_dim": 4, "rows": -1}, "this task has 3 and 2"),
        ({"episodes": [5, 0, 9]}, "contradicts itself"),
        ({"episodes": [50, 9]}, "contradicts itself"),
        ({"episodes": [9, 5]}, "does not fit the checkpoint's episodes"),
        ({"episodes": "x"}, "damaged"),
        ({"rows": -1, "episodes": []}, "contradicts itself"),
        ({"rows": None}, "damaged"),
        ({"checksums": {}}, "damaged"),
    ],
    ids=str,
)
def test_a_bad_state_is_refused(tmp_path, change, reason):
    state = filled([5, 9]).save(tmp_path)
    with pytest.raises(CheckpointError, match=reason):
        reloaded(tmp_path, state | change)


@pytest.mark.parametrize("key", ["version", "observation_dim", "action_dim", "rows", "checksums", "episodes"])
def test_a_state_that_lacks_something_is_damaged(tmp_path, key):
    state = filled([5, 9]).save(tmp_path)
    del state[key]
    with pytest.raises(CheckpointError, match=f"damaged: KeyError.*{key}"):
        reloaded(tmp_path, state)


def test_a_file_that_vanished_is_noticed_by_the_next_save(tmp_path):
    replay = filled([5])
    replay.save(tmp_path)
    (tmp_path / FILES[1]).write_bytes(b"")
    add_episode(replay, 1, 5)
    with pytest.raises(CheckpointError, match=FILES[1]):
        replay.save(tmp_path)


def test_what_a_task_tells_beside_is_kept_and_a_borrowed_folder_is_not_touched(tmp_path):
    replay = Replay(20, 3, 1, extras_dim=2)
    for t in range(6):
        replay.add(0, np.full(3, t), np.zeros(1), float(t), False, t == 0, t == 5, extras=np.array([t, -t]))
    state = replay.save(tmp_path / "a")
    (tmp_path / "a" / "track.f32").open("ab").write(b"more")
    before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    borrowed = Replay(20, 3, 1, extras_dim=2)
    borrowed.load(tmp_path / "a", state, borrow=True)
    borrowed.relabel(lambda rows: rows.extras[:, 0] * 10 + rows.extras[:, 1])
    assert sorted(borrowed.sample(np.random.default_rng(0), 1, 6).reward[0]) == [0, 9, 18, 27, 36, 45]
    own = borrowed.save(tmp_path / "b")
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before
    again = Replay(20, 3, 1, extras_dim=2)
    again.load(tmp_path / "b", own)
    assert again.sample(np.random.default_rng(0), 1, 6).reward.max() == 45
    with pytest.raises(ValueError, match="2 extras"):
        replay.add(0, np.zeros(3), np.zeros(1), 0.0, False, True, False)
    with pytest.raises(CheckpointError, match="damaged"):
        again.load(
            tmp_path / "b", {**own, "checksums": {k: v for k, v in own["checksums"].items() if "track" not in k}}
        )
