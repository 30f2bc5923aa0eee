"""What goes out comes back to the bit, in every format; and others' readers read it."""

import json
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
from experience.recorded.made import PENDULUM, d4rl, same, stored

from lsp_fast import envs
from lsp_fast.errors import LspFastError
from lsp_fast.experience.recorded import exchange, folder, npz
from lsp_fast.experience.recorded import minari as our_minari
from lsp_fast.experience.recorded.form import About, Asked

WRITE = {
    "npz": npz.write_npz,
    "minari": lambda part, given: our_minari.write_minari(part, given, "made-v0", {}),
}
KINDS = {
    "features": {},
    "extras": {"extras": 4},
    "frames": {"observation": (64, 64, 3)},
    "one step": {"lengths": (1, 1)},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", WRITE)
def test_a_replay_that_goes_out_comes_back_to_the_bit(form, kind, tmp_path):
    given = stored(**KINDS[kind])
    told = exchange.export_replay(given, tmp_path / "made-v0", WRITE[form])
    summary = exchange.import_recording(tmp_path / "made-v0", tmp_path / "replay", Asked())
    found = folder.read_folder(tmp_path / "replay")
    assert same(found.episodes(), given.episodes())
    assert (found.observation, found.action_dim, found.extras_dim) == (
        given.observation,
        given.action_dim,
        given.extras_dim,
    )
    assert found.lengths == given.lengths == told.lengths == summary.lengths
    assert (found.about.action_repeat, found.about.extras, found.about.algorithm) == (2, given.about.extras, "lsp")
    assert told.terminated == summary.terminated == 1 and told.returns == summary.returns


@pytest.mark.parametrize("form", WRITE)
def test_an_import_that_goes_out_again_is_the_same_recording(form, tmp_path):
    """Of float32, which a replay keeps as it is."""
    exchange.export_replay(stored(), tmp_path / "first-v0", WRITE[form])
    exchange.import_recording(tmp_path / "first-v0", tmp_path / "replay", Asked())
    exchange.export_replay(folder.read_folder(tmp_path / "replay"), tmp_path / "second-v0", WRITE[form])
    if form == "minari":
        first, second = (minari.MinariDataset(tmp_path / name / "data") for name in ("first-v0", "second-v0"))
        for one, other in zip(first, second, strict=True):
            for name in ("observations", "actions", "rewards", "terminations", "truncations"):
                assert np.array_equal(getattr(one, name), getattr(other, name))
        return
    paths = sorted((tmp_path / "first-v0").glob("*.npz"))
    assert [p.name for p in paths] == ["episode-000000-5.npz", "episode-000001-3.npz", "episode-000002-4.npz"]
    for path in paths:
        one, other = np.load(path), np.load(tmp_path / "second-v0" / path.name)
        assert set(one.files) == set(other.files)
        assert all(one[k].tobytes() == other[k].tobytes() and one[k].dtype == other[k].dtype for k in one.files)


def test_what_is_written_in_pieces_is_the_same(tmp_path, monkeypatch):
    given = stored(lengths=(5, 3, 4, 2))
    exchange.export_replay(given, tmp_path / "out", npz.write_npz)
    monkeypatch.setattr(folder, "TOGETHER", 100)  # bytes: two of these episodes
    exchange.import_recording(tmp_path / "out", tmp_path / "in", Asked())
    assert (tmp_path / "in" / "reward.f32").stat().st_size == 4 * sum(given.lengths)
    assert same(folder.read_folder(tmp_path / "in").episodes(), given.episodes())


def test_a_replay_without_numbers_beside_its_rows_names_none(tmp_path):
    """Merging loses them."""
    held = stored(lengths=(4,), extras=3)._replace(episodes=lambda: iter([episode]))
    [episode] = stored(lengths=(4,), extras=3).episodes()
    episode.action[1:] = 0.5
    exchange.export_replay(held, tmp_path / "out", npz.write_npz)
    summary = exchange.import_recording(tmp_path / "out", tmp_path / "in", Asked(merge=2))
    found = folder.read_folder(tmp_path / "in")
    assert found.extras_dim == 0 and found.about == summary.about and found.about.extras == ""
    assert held.about.extras == "relabel" and found.about.action_repeat == 2 * held.about.action_repeat


def test_npz_is_what_dreamers_programs_read(tmp_path):
    given = stored(observation=(64, 64, 3))
    exchange.export_replay(given, tmp_path / "out", npz.write_npz)
    [_, ended, _] = sorted((tmp_path / "out").glob("*.npz"))
    assert int(ended.stem.rpartition("-")[2]) == 3  # steps, as the name says
    arrays = np.load(ended)
    assert arrays["image"].shape == (4, 64, 64, 3) and arrays["image"].dtype == np.uint8
    assert arrays["is_first"].tolist() == [True, False, False, False] == arrays["is_last"].tolist()[::-1]
    assert arrays["is_terminal"].tolist() == [False, False, False, True]
    assert arrays["discount"].tolist() == [1, 1, 1, 0]
    assert not arrays["action"][0].any() and arrays["reward"][0] == 0


def test_minari_loads_an_export_and_makes_its_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = envs.make(PENDULUM, action_repeat=4)
    about = About(PENDULUM, 4, "", "lsp", (-2.0,), (2.0,))
    given = stored(action_dim=1, about=about)
    metadata = {"algorithm_name": "lsp", "author": {"me"}}
    write = lambda part, found: our_minari.write_minari(part, found, "pendulum/made-v3", metadata, env.spec)  # noqa: E731
    exchange.export_replay(given, tmp_path / "pendulum" / "made-v3", write)
    dataset = minari.load_dataset("pendulum/made-v3")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 12)
    assert dataset.storage.metadata["lsp_fast"] == about.told() | {"action_low": [-2.0], "action_high": [2.0]}
    episode, rows = dataset[1], list(given.episodes())[1]
    assert np.array_equal(episode.observations, rows.observation) and np.array_equal(episode.actions, rows.action[1:])
    assert episode.terminations.tolist() == [False, False, True] and not episode.truncations.any()
    assert dataset[0].truncations.tolist() == [False] * 4 + [True] and not dataset[0].terminations.any()
    again = dataset.recover_environment()
    assert again.action_space == dataset.action_space == env.action_space
    assert again.observation_space == dataset.observation_space
    again.reset(seed=3), env.reset(seed=3)
    action = np.float32([0.7])
    for one, other in zip(again.step(action), env.step(action), strict=True):
        assert np.array_equal(one, other)
    env.close(), again.close()


def test_what_is_written_is_whole_or_not_there(tmp_path):
    def fails(part, given):
        npz.write_npz(part, given)
        raise OSError(28, "No space left on device")

    with pytest.raises(LspFastError, match=r"out cannot be written: No space left on device; make room"):
        exchange.export_replay(stored(), tmp_path / "out", fails)
    source = d4rl(tmp_path / "x.hdf5", timeouts=[5], rewards=np.full(12, np.nan))
    with pytest.raises(LspFastError, match="rewards of row 0 is nan"):
        exchange.import_recording(source, tmp_path / "in", Asked())
    assert [p.name for p in tmp_path.iterdir()] == ["x.hdf5"]
    with pytest.raises(LspFastError, match="no completed episode"):
        exchange.export_replay(stored(lengths=()), tmp_path / "out", npz.write_npz)


def test_a_replay_that_was_changed_is_refused_before_its_first_episode(tmp_path):
    exchange.export_replay(stored(), tmp_path / "out", npz.write_npz)
    exchange.import_recording(tmp_path / "out", tmp_path / "in", Asked())
    path = tmp_path / "in" / "reward.f32"
    content = bytearray(path.read_bytes())
    content[9] ^= 1
    path.write_bytes(content)
    with pytest.raises(LspFastError, match=r"reward\.f32 is not the file that was written.*import the recording anew"):
        next(folder.read_folder(tmp_path / "in").episodes())
    path.write_bytes(content[:-4])
    with pytest.raises(LspFastError, match=r"reward\.f32 has 56 bytes, the checkpoint needs 60"):
        next(folder.read_folder(tmp_path / "in").episodes())
    told = json.loads((tmp_path / "in" / "data.json").read_text())
    for wrong in ({**told, "version": 9}, {k: v for k, v in told.items() if k != "replay"}, []):
        (tmp_path / "in" / "data.json").write_text(json.dumps(wrong))
        with pytest.raises(LspFastError, match=r"version 9|cannot be used"):
            folder.read_folder(tmp_path / "in")


def test_what_is_there_already_stays(tmp_path):
    (tmp_path / "out").mkdir()
    exchange.export_replay(stored(), tmp_path / "out", npz.write_npz)  # an empty folder is as good as none
    with pytest.raises(LspFastError, match="out is there already; name a new folder"):
        exchange.export_replay(stored(), tmp_path / "out", npz.write_npz)
    with pytest.raises(LspFastError, match="out is there already"):
        exchange.import_recording(tmp_path / "out", tmp_path / "out", Asked())


def test_the_folder_that_one_is_in_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(LspFastError, match=r"^\. cannot be replaced; name a new folder"):
        exchange.export_replay(stored(), Path("."), npz.write_npz)


@pytest.mark.parametrize(
    ("asked", "form", "words"),
    [
        ({"observation": ("image",)}, "minari", r"--observation is for \.npz, and .*made-v0 is of Minari; leave"),
        ({"never_ends": True}, "minari", r"--never-ends is for \.npz and HDF5, and"),
        ({"episode_length": 5}, "npz", r"--episode-length is for HDF5, and .*made-v0 is of \.npz"),
        ({"actions": "taken"}, "hdf5", r"--actions is for \.npz, and .*x\.hdf5 is of HDF5"),
    ],
)
def test_an_option_of_another_format_is_refused_and_not_passed_over(tmp_path, asked, form, words):
    source = tmp_path / "made-v0" if form in WRITE else d4rl(tmp_path / "x.hdf5")
    if form in WRITE:
        exchange.export_replay(stored(), source, WRITE[form])
    with pytest.raises(LspFastError, match=words):
        exchange.import_recording(source, tmp_path / "in", Asked(**asked))


@pytest.mark.parametrize("name", ["x", "x-v", "", "-v0x"])
def test_names_that_minari_does_not_find_are_refused(name):
    with pytest.raises(LspFastError, match="end it with a version"):
        our_minari.check_name(name)
    our_minari.check_name("a/b/x-v0")


def test_spaces_are_flattened_as_gymnasium_does():
    from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple

    space = Dict({"b": Box(-1, 1, (2, 2)), "a": Tuple((Discrete(3), Box(0, 9, (), np.float64))), "c": MultiBinary(2)})
    space.seed(1)
    samples = [space.sample() for _ in range(4)]
    stacked = {
        "b": np.stack([x["b"] for x in samples]),
        "a": tuple(np.stack([x["a"][i] for x in samples]) for i in range(2)),
        "c": np.stack([x["c"] for x in samples]),
    }
    wanted = np.stack([gymnasium.spaces.flatten(space, x) for x in samples])
    assert np.array_equal(our_minari.flattened(space, stacked), wanted)
    with pytest.raises(LspFastError, match="no fixed number of entries"):
        our_minari.flattened(gymnasium.spaces.Sequence(Discrete(2)), [(1,)])
