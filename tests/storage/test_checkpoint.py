"""Checkpoints are written whole, kept two at a time, and read without running code."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp_fast import files
from lsp_fast.errors import CheckpointError
from lsp_fast.storage import checkpoint


def test_round_trip_and_the_two_newest_are_kept(tmp_path):
    for step in (5, 10, 1000):
        checkpoint.save(tmp_path, step, {"x": torch.arange(step), "note": "n"})
    assert [p.name for p in checkpoint.list_checkpoints(tmp_path)] == ["000000010.pt", "000001000.pt"]
    state = checkpoint.load_latest(tmp_path)
    assert state["env_steps"] == 1000 and torch.equal(state["x"], torch.arange(1000)) and state["note"] == "n"


def test_a_crash_while_writing_leaves_the_one_before(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, {"x": 1})

    def crash(path, data):
        path.with_name(path.name + files.PART).write_bytes(data[:100])  # what a power failure leaves
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_bytes", crash)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 2, {"x": 2})
    assert checkpoint.load_latest(tmp_path)["env_steps"] == 1
    monkeypatch.undo()
    checkpoint.save(tmp_path, 3, {"x": 3})
    assert not list(tmp_path.glob("*.part"))


def test_the_older_one_is_read_where_the_newest_is_broken(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": 1})
    path = checkpoint.save(tmp_path, 2, {"x": 2})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match=r"000000002\.pt is not a readable .* before it, 000000001\.pt, is used"):
        assert checkpoint.load_latest(tmp_path)["env_steps"] == 1


class Exploit:
    def __reduce__(self):
        return (pytest.fail, ("code was run",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint", pickle.dumps({"a": 1}), pickle.dumps(Exploit())],
    ids=["empty", "foreign", "plain pickle", "pickle with code"],
)
def test_what_is_no_checkpoint_is_named_and_runs_no_code(tmp_path, content):
    path = checkpoint.path_of(tmp_path, 3)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"000000003\.pt"):
        checkpoint.load_latest(tmp_path)


def test_code_in_a_file_of_our_own_format_is_not_run(tmp_path):
    path = checkpoint.save(tmp_path, 1, {"x": Exploit()})
    with pytest.raises(CheckpointError, match=r"000000001\.pt"):
        checkpoint.load(path)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = checkpoint.save(tmp_path_factory.mktemp("c"), 1, {"x": torch.arange(9.0), "s": "abc", "n": [1, (2,)]})
    return path, path.read_bytes()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:Defining your")
@given(st.data())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_whatever_is_damaged_the_file_is_named(written, data):
    path, good = written
    if data.draw(st.booleans()):
        damaged = good[: data.draw(st.integers(0, len(good) - 1))]
    else:
        at = data.draw(st.one_of(st.integers(0, 600), st.integers(0, len(good) - 1)))  # the pickle comes first
        damaged = good[:at] + data.draw(st.binary(min_size=1, max_size=3)) + good[at + 3 :]
    path.write_bytes(damaged)
    try:
        state = checkpoint.load(path)
    except CheckpointError as error:
        assert path.name in str(error)
        return
    # What is padding, or a name's second copy, may change; what is read may not.
    assert torch.equal(state["x"], torch.arange(9.0)) and (state["s"], state["n"]) == ("abc", [1, (2,)])


def test_an_altered_weight_is_seen(written):
    # torch itself loads it.
    path, good = written
    at = good.index(torch.arange(9.0).numpy().tobytes()) + 4
    path.write_bytes(good[:at] + b"\x01" + good[at + 1 :])
    assert not torch.equal(torch.load(path, weights_only=True)["x"], torch.arange(9.0))
    with pytest.raises(CheckpointError, match="is not what was written"):
        checkpoint.load(path)


def test_plain_values_are_read_without_the_numbers(written):
    path, good = written
    path.write_bytes(good)
    state = checkpoint.plain_values(path)
    assert (state["s"], state["n"]) == ("abc", [1, (2,)]) and state["x"].is_meta
    for damaged in (good[:-9], b"", b"x" * 99):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="readable"):
            checkpoint.plain_values(path)


def test_another_format_is_refused(tmp_path):
    torch.save({"weights": 1}, tmp_path / "000000001.pt")
    with pytest.raises(CheckpointError, match="version"):
        checkpoint.load(tmp_path / "000000001.pt")


def test_an_empty_folder_has_none(tmp_path):
    assert checkpoint.load_latest(tmp_path) is None
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoint.load(tmp_path / "x.pt")
