"""What is done with a whole replay takes little memory beside it."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from lsp_fast.experience.replay import Replay

ROWS, EPISODE, WIDTH = 60_000, 500, 40


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """What is allocated within never stands higher than that many bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def replay():
    """A ring that has come round: 10 MB of observations."""
    replay = Replay(ROWS, WIDTH, 2, extras_dim=3)
    rng, part = np.random.default_rng(0), replay._empty(EPISODE)
    for _ in range(ROWS // EPISODE + 7):
        for array in part[:-2]:
            array[...] = rng.normal(size=array.shape)
        part.is_first[:], part.extras[:] = np.arange(EPISODE) == 0, rng.normal(size=part.extras.shape)
        replay._complete(part)
    assert replay._oldest > 0 and replay.num_rows == ROWS
    return replay


def score(rows):
    return np.cos(rows.extras).sum(-1, dtype=np.float32)


@pytest.fixture(scope="module")
def size(replay):
    return sum(array.nbytes for array in replay._rows)


def test_relabelling_copies_no_replay_and_gives_the_same_rewards(replay, size):
    in_order = (np.arange(ROWS) + replay._oldest) % ROWS
    whole = score(replay._rows._replace(extras=replay._rows.extras[in_order]))
    with at_most(size // 10):
        replay.relabel(score)
    np.testing.assert_array_equal(replay._rows.reward[in_order], whole)


def test_a_first_save_copies_no_replay_and_a_load_holds_it_once(replay, size, tmp_path):
    with at_most(size // 10):
        state = replay.save(tmp_path / "new")
    again = Replay(ROWS, WIDTH, 2, extras_dim=3)
    # Files are read in parts of 16 MiB or less; the largest of these is 9.6 MB.
    with at_most(size + size // 10):
        again.load(tmp_path / "new", state)
    for ours, theirs in zip(again.episodes(), replay.episodes(), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_smaller_capacity_skips_what_gave_way_in_parts(replay, size, tmp_path, monkeypatch):
    from lsp_fast.experience import replay_files

    state = replay.save(tmp_path / "new")
    monkeypatch.setattr(replay_files, "CHUNK_BYTES", 10_007)  # no multiple of a row
    again = Replay(10 * EPISODE, WIDTH, 2, extras_dim=3)
    with at_most(size // 10 + size // 10):
        again.load(tmp_path / "new", state)
    newest = list(replay.episodes())[-10:]
    for ours, theirs in zip(again.episodes(), newest, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
