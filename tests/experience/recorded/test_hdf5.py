"""Files of D4RL's kind."""

import h5py
import numpy as np
import pytest
from experience.recorded.made import PENDULUM, d4rl, rows_of

from lsp_fast.errors import LspFastError
from lsp_fast.experience.recorded import hdf5
from lsp_fast.experience.recorded.exchange import import_recording, open_recording
from lsp_fast.experience.recorded.form import Asked, target


def read(path, **asked):
    asked = Asked(**asked)
    return rows_of(open_recording(path, asked), asked)


def first_numbers(episodes):
    return [rows.observation[:, 0].tolist() for rows in episodes]


def test_episodes_end_where_it_is_said_and_with_what_came_next(tmp_path):
    [a, b, c], notes = read(d4rl(tmp_path / "x.hdf5", terminals=[3], timeouts=[8]))
    assert first_numbers([a, b, c]) == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8, 9], [9, 10, 11, 12]]
    assert a.terminal.tolist() == [0, 0, 0, 0, 1] and not b.terminal.any() and not c.terminal.any()
    # The action of a row leads to the next one, and its reward comes with that.
    assert a.reward.tolist() == [0, 0, 0.5, 1, 1.5] and b.reward.tolist() == [0, 2, 2.5, 3, 3.5, 4]
    assert np.array_equal(b.action[1:, 0], np.float32([4, 5, 6, 7, 8]) / 12) and not b.action[0].any()
    assert all(rows.is_first.tolist() == [True] + [False] * (len(rows.reward) - 1) for rows in (a, b, c))
    assert not any("episodes" in note for note in notes)


def test_without_what_came_next_an_episodes_last_step_is_left_out_and_said(tmp_path):
    [a, b, c], notes = read(d4rl(tmp_path / "x.hdf5", terminals=[3], timeouts=[8], next_observations=None))
    assert first_numbers([a, b, c]) == [[0, 1, 2, 3], [4, 5, 6, 7, 8], [9, 10, 11]]
    assert not any(rows.terminal.any() for rows in (a, b, c))
    assert "its last step is left out, with 1 terminations" in " ".join(notes)


def test_a_break_that_nothing_marks_is_an_end(tmp_path):
    jumps = np.arange(12, dtype=np.float32)[:, None].repeat(3, 1) + 1
    jumps[6] = 50
    [a, b], notes = read(d4rl(tmp_path / "x.hdf5", next_observations=jumps, timeouts=None))
    assert first_numbers([a, b]) == [[0, 1, 2, 3, 4, 5, 6, 50], [7, 8, 9, 10, 11, 12]]
    assert notes[-1].startswith("1 episodes end where next_observations is not the row after")


@pytest.mark.parametrize("row", range(11))
def test_rows_are_compared_across_the_pieces_that_are_read(tmp_path, monkeypatch, row):
    monkeypatch.setattr(hdf5, "PIECE", 4)
    jumps = np.arange(12, dtype=np.float32)[:, None].repeat(3, 1) + 1
    jumps[row, 1] += 5
    episodes, _ = read(d4rl(tmp_path / "x.hdf5", next_observations=jumps))
    assert [len(rows.reward) for rows in episodes] == [row + 2, 12 - row]


def test_episodes_of_one_length_need_no_marks(tmp_path):
    path = d4rl(tmp_path / "x.hdf5", terminals=[5], timeouts=None, next_observations=None)
    episodes, _ = read(path, episode_length=4)
    assert first_numbers(episodes) == [[0, 1, 2, 3], [4, 5], [6, 7, 8, 9], [10, 11]]
    with pytest.raises(LspFastError, match=r"timeouts is missing.*--episode-length"):
        read(path)


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "terminals"])
def test_a_missing_field_is_named_with_those_that_are_there(tmp_path, name):
    with pytest.raises(LspFastError, match=rf"{name} is missing; there are .*timeouts"):
        read(d4rl(tmp_path / "x.hdf5", **{name: None}))


def test_a_task_that_never_terminates_needs_no_field_for_it(tmp_path):
    episodes, _ = read(d4rl(tmp_path / "x.hdf5", timeouts=[5], terminals=None), never_ends=True)
    assert len(episodes) == 2 and not any(rows.terminal.any() for rows in episodes)


def test_fields_must_be_as_long_and_arrays(tmp_path):
    with pytest.raises(LspFastError, match="rewards has 11 rows and observations 12"):
        read(d4rl(tmp_path / "x.hdf5", rewards=np.zeros(11)))
    with pytest.raises(LspFastError, match="actions is not an array"):
        read(d4rl(tmp_path / "x.hdf5", actions=3.0))
    (tmp_path / "y.hdf5").write_bytes(b"no")
    with pytest.raises(LspFastError, match=r"y\.hdf5 is not a readable HDF5 file"):
        read(tmp_path / "y.hdf5")


WRONG = {
    "timeouts": (np.zeros((12, 2)), r"timeouts has shape \(12, 2\); one mark a step"),
    "terminals": (np.array([b"no"] * 12), r"terminals holds \|S2; numbers are needed"),
    "next_observations": (np.zeros((12, 4)), r"\(12, 4\) and observations \(12, 3\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_marks_that_are_none_are_named(tmp_path, name):
    array, words = WRONG[name]
    path = d4rl(tmp_path / "x.hdf5")
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = array
    with pytest.raises(LspFastError, match=words):
        read(path)


def test_a_damaged_piece_is_said_of_the_recording_and_not_of_what_is_written(tmp_path):
    path = d4rl(tmp_path / "x.hdf5", observations=None, next_observations=None, timeouts=[5])
    with h5py.File(path, "r+") as file:
        seen = np.random.default_rng(0).normal(size=(12, 3))
        pieces = file.create_dataset("observations", data=seen, chunks=(6, 3), compression="gzip")
        at = pieces.id.get_chunk_info(1).byte_offset
    content = path.read_bytes()
    path.write_bytes(content[: at + 4] + b"\xff" * 20 + content[at + 24 :])
    with pytest.raises(LspFastError, match=r"x\.hdf5: observations cannot be read from row 6 on: .*read"):
        import_recording(path, tmp_path / "in", Asked())
    assert [found.name for found in tmp_path.iterdir()] == ["x.hdf5"]


def test_messages_name_the_row_of_the_file(tmp_path):
    actions = np.zeros((12, 2), np.float32)
    actions[9, 1] = 1.5
    with pytest.raises(
        LspFastError, match=r"episode 1 of x\.hdf5: actions\[1\] of row 9 is 1\.5, outside its bounds -1 to 1"
    ):
        read(d4rl(tmp_path / "x.hdf5", actions=actions, timeouts=[5]))
    episodes, notes = read(d4rl(tmp_path / "x.hdf5", actions=actions, timeouts=[5]), clip_actions=True)
    assert episodes[1].action.max() == 1 and "1 actions lay outside their bounds and are cut" in notes
    seen = np.zeros((12, 3))
    seen[7, 2] = 1e300
    with pytest.raises(
        LspFastError, match=r"episode 1 of x\.hdf5: observations\[2\] of row 7 does not fit into float32"
    ):
        read(d4rl(tmp_path / "x.hdf5", observations=seen, timeouts=[5], next_observations=None))


def test_another_task_is_told_with_both_shapes(tmp_path):
    with pytest.raises(LspFastError, match=r"of 3 and actions of 2 numbers, where gym:Pendulum-v1 has 3 and 1; .*ed$"):
        read(d4rl(tmp_path / "x.hdf5"), target=target(PENDULUM))
