"""Folders of `.npz` episodes, of several programs' habits."""

import numpy as np
import pytest
from experience.recorded.made import rows_of

from lsp_fast.errors import LspFastError
from lsp_fast.experience.recorded.exchange import converted, import_recording, open_recording
from lsp_fast.experience.recorded.form import Asked, Notes, target


def put(folder, number=0, rows=5, **changed):
    """Dreamer's: the action that led to the row. `None` leaves a field out."""
    count = np.arange(rows, dtype=np.float32)
    fields = {
        "observation": np.stack([count, count * 2], 1),
        "action": count[:, None] / 10,
        "reward": count / 2,
        "discount": np.ones(rows, np.float16),
    } | changed
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"e{number}.npz", **{k: v for k, v in fields.items() if v is not None})
    return folder


def read(path, **asked):
    asked = Asked(action_repeat=2, **asked)
    return rows_of(open_recording(path, asked), asked)


def test_dreamers_rows_have_the_action_that_led_to_them(tmp_path):
    put(put(tmp_path / "d"), 1, rows=4, discount=np.float16([1, 1, 1, 0]))
    [a, b], notes = read(tmp_path / "d")
    assert a.observation[:, 1].tolist() == [0, 2, 4, 6, 8] and a.reward.tolist() == [0, 0.5, 1, 1.5, 2]
    assert np.array_equal(a.action[:, 0], np.arange(5, dtype=np.float32) / 10)
    assert not a.terminal.any() and b.terminal.tolist() == [0, 0, 0, 1]
    assert "a row has the action that led to it" in notes


@pytest.mark.parametrize("spare", [True, False])
def test_the_other_habit_is_told_by_the_last_row_or_by_a_row_less(tmp_path, spare):
    """RLDS's: the action that is taken in a row, whose last one has none."""
    action, reward = np.float32([[0.1], [0.2], [0.3], [0.4], [0]]), np.float32([1, 2, 3, 4, 9])
    last = 5 if spare else 4
    folder = put(tmp_path / "d", action=action[:last], reward=reward[:last])
    [rows], notes = read(folder)
    assert rows.reward.tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(rows.action[:, 0], np.float32([0, 0.1, 0.2, 0.3, 0.4]))
    assert rows.observation[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert ("the action and the reward of an episode's last row lead nowhere: they are left out" in notes) == spare


def test_where_nothing_tells_which_action_a_row_has_it_must_be_said(tmp_path):
    for name, action, why in (
        ("full", np.ones((5, 1)), "neither is always zero"),
        ("both", np.float32([[0], [1], [1], [1], [0]]), "are zero"),
    ):
        folder = put(tmp_path / name, action=action, reward=np.zeros(5))
        with pytest.raises(LspFastError, match=rf"{why}; say which it is by --actions led_to"):
            read(folder)
        assert np.array_equal(read(folder, actions="led_to")[0][0].action[1:], np.float32(action[1:]))
        assert np.array_equal(read(folder, actions="taken")[0][0].action[1:], np.float32(action[:-1]))


def test_a_file_may_hold_several_episodes_but_none_from_its_middle(tmp_path):
    first = np.array([True, False, False, True, False])
    action = np.float32([[0], [0.1], [0.2], [0], [0.4]])
    reward = np.float32([0, 1, 2, 0, 4])
    [a, b], _ = read(put(tmp_path / "d", is_first=first, action=action, reward=reward))
    assert a.observation[:, 0].tolist() == [0, 1, 2] and b.observation[:, 0].tolist() == [3, 4]
    assert b.reward.tolist() == [0, 4]
    with pytest.raises(LspFastError, match=r"is_first of row 0 is false"):
        read(put(tmp_path / "e", is_first=np.zeros(5, bool)))


MISSING = {
    "observation": r"observation or observations .* is missing; there are action, discount, reward\. Name the fields",
    "action": "action or actions is missing",
    "reward": "reward or rewards is missing",
    "discount": "is_terminal or discount is missing.*--never-ends",
}


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_field_is_named(tmp_path, name):
    with pytest.raises(LspFastError, match=rf"e0\.npz: {MISSING[name]}"):
        read(put(tmp_path / "d", **{name: None}))


WRONG = {
    "a reward that nothing led to": ({"reward": np.ones(5)}, "reward of row 0 is 1, though nothing led to"),
    "an early end": ({"is_terminal": np.array([0, 1, 0, 0, 0])}, "is_terminal of row 1 is true, and the episode goes"),
    "an early discount": ({"discount": np.array([1, 0, 1, 1, 1])}, "discount of row 1 is 0, and"),
    "two words for the end": (
        {"is_terminal": np.array([0, 0, 0, 0, 1])}, "is_terminal says that the task ended in the last row, discount"
    ),
    "too few observations": ({"observation": np.zeros((4, 2))}, "observation has 4 entries where 4 entries of action"),
    "too few rewards": ({"reward": np.arange(4.0)}, "reward has 3 entries where 4 entries of action ask for 4"),
    "text": ({"observation": np.array(["a"] * 5)}, "observation holds <U1; numbers are needed"),
    "no number": ({"observation": np.full((5, 2), np.nan)}, r"observation\[0\] of row 0 is nan"),
    "an infinite reward": ({"reward": np.array([0, 1, np.inf, 1, 1])}, "reward of row 2 is inf"),
    "a reward without room": ({"reward": np.array([0, 1, 1e300, 1, 1])}, "reward of row 2 does not fit into float32"),
    "an action outside": ({"action": np.array([[0], [0], [1.1], [0], [1]])}, r"action\[0\] of row 2 is 1.1, outside"),
    "one number": ({"reward": np.float32(1)}, "reward is one number; an entry a row is needed"),
    "frames of another type": ({"observation": np.zeros((5, 64, 64, 3))}, "frames of float64; they must be uint8"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_with_its_episode(tmp_path, name):
    changed, words = WRONG[name]
    with pytest.raises(LspFastError, match=rf"e0\.npz.*{words}"):
        read(put(tmp_path / "d", **changed))


def test_episodes_must_have_the_same_shapes(tmp_path):
    folder = put(put(tmp_path / "d"), 1, observation=np.zeros((5, 4)))
    with pytest.raises(LspFastError, match=r"episode e1\.npz: observations of 4, .* the episodes before have 2, 1"):
        read(folder)


def test_damaged_files_are_named(tmp_path):
    folder = put(tmp_path / "d")
    path = folder / "e0.npz"
    content = path.read_bytes()
    for damaged in (b"", b"nothing", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(LspFastError, match=r"e0\.npz is not a readable \.npz"):
            read(folder)
    np.savez(path, observation=np.array([{}], object))
    with pytest.raises(LspFastError, match=r"e0\.npz"):
        read(folder)
    with pytest.raises(LspFastError, match="holds no recording"):
        open_recording(tmp_path, Asked())
    put(folder)
    (folder / "lsp_fast.json").write_text("{")
    with pytest.raises(LspFastError, match=r"lsp_fast\.json cannot be read"):
        read(folder)


def test_a_damaged_compressed_array_is_named(tmp_path):
    """Compression says so in an error of its own, before there is a sum to check; so does a file with a password."""
    path = put(tmp_path / "d", rows=100) / "e0.npz"
    np.savez_compressed(path, **np.load(path))
    content = path.read_bytes()
    begin = content.index(b"observation.npy") + 60
    path.write_bytes(content[:begin] + b"\xff" * 40 + content[begin + 40 :])
    with pytest.raises(LspFastError, match=r"e0\.npz: observation cannot be read: Error -3 while decompressing"):
        read(path)
    path.write_bytes(content.replace(b"PK\1\2\x2d\3\x2d\0\0", b"PK\1\2\x2d\3\x2d\0\1"))
    with pytest.raises(LspFastError, match=r"e0\.npz: .* cannot be read: .*encrypted"):
        read(path)


def test_smaller_and_larger_numbers_become_float32(tmp_path):
    seen = np.random.default_rng(0).normal(size=(5, 2))
    for dtype in (np.float16, np.float64):
        [rows], _ = read(put(tmp_path / dtype.__name__, observation=seen.astype(dtype)))
        assert np.array_equal(rows.observation, seen.astype(dtype).astype(np.float32))


def test_actions_are_mapped_from_the_recordings_bounds(tmp_path):
    action = np.array([[0, 0], [0, -3], [4, 1], [2, -1], [1, 0]], np.float64)
    folder = put(tmp_path / "d", action=action)
    [rows], notes = read(folder, action_low=(0.0, -3.0), action_high=(4.0, 1.0))
    assert rows.action.tolist() == [[0, 0], [-1, -1], [1, 1], [0, 0], [-0.5, 0.5]]
    assert "actions from -3, 0 to 1, 4 (as asked for) are mapped to -1 to 1" in notes
    [rows], _ = read(folder, action_low=(-4.0,), action_high=(4.0,))
    assert rows.action[2].tolist() == [1, 0.25]
    # What float32 rounds beyond a bound lies on it.
    over = np.nextafter(np.float32([[0], [0.4], [-0.4], [0], [0.4]]), np.float32([[0], [1], [-1], [0], [1]]))
    [rows], notes = read(put(tmp_path / "o", action=over), action_low=(-0.4,), action_high=(0.4,))
    assert rows.action[:3, 0].tolist() == [0, 1, -1] and not any("cut" in note for note in notes)
    for asked, words in (
        ({"action_low": (0.0,)}, "belong together"),
        ({"action_low": (1.0,), "action_high": (1.0,)}, "cannot be mapped"),
        ({"action_low": (0.0,), "action_high": (np.inf,)}, "cannot be mapped"),
        ({"action_low": (-4.0,) * 3, "action_high": (4.0,) * 3}, "2 numbers a step, and there are bounds for 3"),
    ):
        with pytest.raises(LspFastError, match=words):
            read(folder, **asked)


def test_rows_that_are_merged_hold_one_action_and_sum_their_rewards(tmp_path):
    action = np.float32([[0], [0.1], [0.1], [0.2], [0.2], [0.3]])
    folder = put(tmp_path / "d", rows=6, action=action, discount=np.array([1, 1, 1, 1, 1, 0]))
    [rows], notes = read(folder, merge=2)
    assert rows.observation[:, 0].tolist() == [0, 2, 4, 5]  # the last agent step was cut short
    assert rows.reward.tolist() == [0, 1.5, 3.5, 2.5] and rows.terminal.tolist() == [0, 0, 0, 1]
    assert rows.action[:, 0].tolist() == np.float32([0, 0.1, 0.2, 0.3]).tolist()
    assert "2 rows make one agent step: their rewards are summed" in notes
    with pytest.raises(LspFastError, match=r"e0\.npz: action of row 3 is not that of row 1, .* leave --merge out"):
        read(folder, merge=3)
    broken = put(tmp_path / "b", rows=6, action=action, reward=np.array([0, 1, 1, 1, np.nan, 1]))
    with pytest.raises(LspFastError, match="reward of row 4 is nan"):  # as the file counts them
        read(broken, merge=2)
    import_recording(folder, tmp_path / "in", Asked(action_repeat=2, merge=2))
    _, about = converted(folder, open_recording(folder, Asked()), Asked(action_repeat=2, merge=2), Notes())
    assert about.action_repeat == 4
    with pytest.raises(LspFastError, match=r"does not say how many environment steps.*--action-repeat"):
        import_recording(folder, tmp_path / "other", Asked())


def test_a_tasks_own_fields_make_its_observation_in_its_order(tmp_path):
    """dm_control's reacher observes position [2], to_target [2] and velocity [2]."""
    known = target("reacher_easy")
    assert known.entries == {"position": 2, "to_target": 2, "velocity": 2} and known.action_dim == 2
    parts = {name: np.full((5, 2), i, np.float64) for i, name in enumerate(("velocity", "to_target", "position"))}
    action = np.zeros((5, 2)) + np.arange(5)[:, None] / 5
    folder = put(tmp_path / "d", observation=None, action=action, **parts)
    [rows], notes = read(folder, target=known)
    assert (
        rows.observation[0].tolist() == [2, 2, 1, 1, 0, 0]
        and "observations are position + to_target + velocity" in notes
    )
    [rows], _ = read(folder, observation=("velocity", "position"))
    assert rows.observation[0].tolist() == [0, 0, 2, 2]
    with pytest.raises(
        LspFastError,
        match=r"observations of 4 and actions of 2 numbers, where reacher_easy has 6 and 2; .*--observation",
    ):
        read(folder, target=known, observation=("velocity", "position"))


def test_episodes_without_a_step_are_left_out_and_said(tmp_path):
    folder = put(put(tmp_path / "d"), 1, rows=1)
    episodes, notes = read(folder)
    assert len(episodes) == 1 and "1 episodes without a step are left out" in notes
    (folder / "e0.npz").unlink()
    with pytest.raises(LspFastError, match="holds no episode with a step"):
        read(folder, actions="led_to")


def test_numbers_beside_the_rows_are_taken_of_our_own_exports_alone(tmp_path):
    for theirs in (np.float32(1), np.array([{}] * 5), np.array(["theirs"] * 5)):
        folder = put(tmp_path / "d", extras=theirs)
        assert read(folder)[0][0].extras.shape == (5, 0)
    (folder / "lsp_fast.json").write_text('{"action_repeat": 2, "extras": "relabel"}')
    with pytest.raises(LspFastError, match="extras holds <U6; numbers are needed"):
        read(folder)
    put(folder, extras=np.ones((5, 3)))
    assert read(folder)[0][0].extras.tolist() == [[1, 1, 1]] * 5
    put(folder, extras=np.ones((4, 3)))
    with pytest.raises(LspFastError, match=r"e0\.npz: extras has shape \(4, 3\); 5 rows of numbers are needed"):
        read(folder)
