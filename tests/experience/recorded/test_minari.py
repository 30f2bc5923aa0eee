"""Minari's datasets, as its own library writes them."""

import json

import gymnasium
import h5py
import numpy as np
import pytest
from experience.recorded.made import rows_of
from gymnasium.spaces import Box, Dict, Discrete
from minari.data_collector.episode_buffer import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from lsp_fast import envs
from lsp_fast.errors import LspFastError
from lsp_fast.experience.recorded.exchange import open_recording
from lsp_fast.experience.recorded.form import Asked, target

ACTIONS = Box(-2, 2, (1,), np.float32)


def put(folder, space=ACTIONS, **changed):
    """A dataset of one episode of 3 steps."""
    folder.mkdir()
    storage = MinariStorage.new((folder / "data").resolve(), observation_space=Box(-9, 9, (2,)), action_space=space)
    count = np.arange(4.0)
    fields = {
        "observations": np.stack([count, -count], 1),
        "actions": np.float32([[-2], [1], [2]]),
        "rewards": count[1:],
        "terminations": np.array([False, False, True]),
        "truncations": np.array([False, False, False]),
    } | changed
    storage.update_episodes([EpisodeBuffer(**fields)])
    storage.update_metadata({"dataset_id": "x-v0", "minari_version": "0.5.4"})
    return folder


def read(path, **asked):
    asked = Asked(**asked)
    return rows_of(open_recording(path, asked), asked)


def test_actions_come_in_the_bounds_of_their_space(tmp_path):
    [rows], notes = read(put(tmp_path / "x-v0"))
    assert rows.action[:, 0].tolist() == [0, -1, 0.5, 1] and rows.reward.tolist() == [0, 1, 2, 3]
    assert rows.observation[:, 1].tolist() == [0, -1, -2, -3] and rows.terminal.tolist() == [0, 0, 0, 1]
    assert "actions from -2 to 2 (as the Minari recording says) are mapped to -1 to 1" in notes
    source = open_recording(tmp_path / "x-v0" / "data", Asked())
    assert source.about.action_repeat == 1  # as Minari records


def test_an_episode_with_neither_end_was_cut_off(tmp_path):
    [rows], notes = read(put(tmp_path / "x-v0", terminations=np.zeros(3, bool)))
    assert not rows.terminal.any()
    assert "1 episodes end neither by termination nor by truncation: they count as cut off by time" in notes


def test_dictionaries_are_flattened_in_the_order_of_the_tasks_own_space(tmp_path):
    """A file's keys may stand in another order than the environment's, which gymnasium flattens as they stand."""

    class Pair(gymnasium.Env):
        observation_space = Dict([("b", Box(-9, 9, (1,))), ("a", Box(-9, 9, (2, 1)))])
        action_space = ACTIONS

        def reset(self, *, seed=None, options=None):
            return {"a": np.float32([[1], [2]]), "b": np.float32([3])}, {}

        def step(self, action):
            return self.reset()[0], 0.0, False, False, {}

    gymnasium.register("RecordedPair-v0", Pair, max_episode_steps=10)
    observed = envs.make("gym:RecordedPair-v0").reset()[0]
    known = target("gym:RecordedPair-v0")
    parts = {"a": np.float32([[[1], [2]]] * 4), "b": np.float32([[3]] * 4)}
    for name, space in (
        ("x-v0", Dict({"a": Box(-9, 9, (2, 1)), "b": Box(-9, 9, (1,))})),
        ("y-v0", Pair.observation_space),
    ):
        folder = _with(tmp_path / name, space, parts)
        [rows], _ = read(folder, target=known)
        assert rows.observation[0].tolist() == observed.tolist()
    [rows], _ = read(tmp_path / "x-v0")
    assert rows.observation[0].tolist() == [1, 2, 3]


def _with(folder, space, observations):
    folder.mkdir()
    storage = MinariStorage.new((folder / "data").resolve(), observation_space=space, action_space=ACTIONS)
    ends = np.array([False, False, True])
    storage.update_episodes(
        [EpisodeBuffer(observations=observations, actions=np.zeros((3, 1), np.float32), rewards=np.zeros(3),
                       terminations=ends, truncations=~ends & False)]
    )  # fmt: skip
    storage.update_metadata({"dataset_id": folder.name, "minari_version": "0.5.4"})
    return folder


def test_what_the_task_does_not_observe_is_left_out_and_the_rest_is_as_it_observes_it(tmp_path):
    class Many(gymnasium.Env):
        observation_space = Dict(
            touch=Discrete(3), arm=Dict(q=Box(-9, 9, (2,))), camera=Box(0, 255, (64, 64, 3), np.uint8)
        )
        action_space = ACTIONS

        def reset(self, *, seed=None, options=None):
            return {"touch": 1, "arm": {"q": np.float32([5, 6])}, "camera": np.zeros((64, 64, 3), np.uint8)}, {}

        def step(self, action):
            return self.reset()[0], 0.0, False, False, {}

    gymnasium.register("RecordedMany-v0", Many, max_episode_steps=10)
    observed = envs.make("gym:RecordedMany-v0").reset()[0]
    parts = {
        "touch": np.ones(4, int), "arm": {"q": np.float32([[5, 6]] * 4)}, "camera": np.zeros((4, 64, 64, 3), np.uint8)
    }  # fmt: skip
    parts["arm"]["v"] = np.float32([[7]] * 4)
    recorded = Dict(
        [("camera", Many.observation_space["camera"]), ("arm", Dict(v=Box(-9, 9, (1,)), q=Box(-9, 9, (2,)))),
         ("touch", Discrete(3))]
    )  # fmt: skip
    folder, known = _with(tmp_path / "x-v0", recorded, parts), target("gym:RecordedMany-v0")
    [rows], notes = read(folder, target=known)
    assert rows.observation[0].tolist() == observed.tolist() and len(observed) == 5
    assert "camera, arm/v: left out, as the task does not observe it" in notes
    parts = {"touch": parts["touch"], "arm": {"v": parts["arm"]["v"]}}
    folder = _with(tmp_path / "y-v0", Dict(touch=Discrete(3), arm=Dict(v=Box(-9, 9, (1,)))), parts)
    with pytest.raises(LspFastError, match="observations of 4"):
        read(folder, target=known)


def test_frames_stay_frames(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    folder = tmp_path / "x-v0"
    folder.mkdir()
    storage = MinariStorage.new(
        (folder / "data").resolve(), Box(0, 255, (64, 64, 3), np.uint8), ACTIONS, jpeg_encoding=False
    )
    ends = np.array([False, False, True])
    storage.update_episodes(
        [EpisodeBuffer(observations=frames, actions=np.zeros((3, 1), np.float32), rewards=np.zeros(3),
                       terminations=ends, truncations=ends)]
    )  # fmt: skip
    [rows], _ = read(folder)
    assert rows.observation.dtype == np.uint8 and np.array_equal(rows.observation, frames.reshape(4, -1))


WRONG = {
    "an early end": ({"terminations": np.array([True, False, True])}, "of row 0 is true, and the episode goes on"),
    "a cut within": ({"truncations": np.array([False, True, False])}, "truncations of row 1 is true"),
    "too few rewards": ({"rewards": np.zeros(2)}, "terminations has 3 entries and rewards 2"),
    "too few observations": ({"observations": np.zeros((3, 2))}, "observations has 3 entries where 3 entries"),
    "an action outside": ({"actions": np.float32([[0], [3], [0]])}, r"actions\[0\] of row 1 is 3, outside its bounds"),
    "no number": ({"observations": np.full((4, 2), np.nan)}, r"observations\[0\] of row 0 is nan"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_with_its_episode(tmp_path, name):
    changed, words = WRONG[name]
    with pytest.raises(LspFastError, match=f"episode 0: .*{words}"):
        read(put(tmp_path / "x-v0", **changed))


def test_what_cannot_be_learned_or_read_is_refused(tmp_path):
    discrete = tmp_path / "d-v0"
    discrete.mkdir()
    MinariStorage.new((discrete / "data").resolve(), Box(-9, 9, (2,)), Discrete(3))
    with pytest.raises(LspFastError, match=r"has actions Discrete\(3\); only continuous ones"):
        read(discrete)
    free = put(tmp_path / "f-v0", Box(-np.inf, np.inf, (1,)))
    with pytest.raises(LspFastError, match="actions without bounds; give what they lie in"):
        read(free)
    assert read(free, action_low=(-2.0,), action_high=(2.0,))[0][0].action[3, 0] == 1
    (free / "data" / "metadata.json").write_text("{}")
    with pytest.raises(LspFastError, match="is not a dataset that Minari can read"):
        read(free)
    damaged = put(tmp_path / "g-v0")
    (damaged / "data" / "main_data.hdf5").write_bytes(b"no")
    with pytest.raises(LspFastError, match="g-v0: episode 0 cannot be read"):
        read(damaged)
    short = put(tmp_path / "s-v0")
    with h5py.File(short / "data" / "main_data.hdf5", "r+") as file:
        file.copy("episode_0", "episode_1")
        del file["episode_1/rewards"]
    metadata = short / "data" / "metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"total_episodes": 2}))
    with pytest.raises(LspFastError, match=r"s-v0: episode 1 cannot be read: .*rewards"):
        read(short)
    with pytest.raises(LspFastError, match=r"nowhere does not exist.*minari download"):
        read(tmp_path / "nowhere")


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    folder = put(tmp_path / "x-v0")
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(LspFastError, match=r"needs minari.*lsp-fast\[data\]"):
        read(folder)
