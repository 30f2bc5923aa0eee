"""A crash or a full disk leaves the old content or the new one, and no parts."""

import errno
from pathlib import Path

import pytest

from lsp_fast.files import write_bytes, write_text


def test_the_content_is_replaced(tmp_path):
    path = tmp_path / "x"
    write_text(path, "λ")
    write_bytes(path, memoryview(b"new"))
    assert path.read_bytes() == b"new" and [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("method", ["open", "replace"])
def test_a_failure_leaves_the_old_content(tmp_path, monkeypatch, method):
    path = tmp_path / "x.json"
    write_text(path, "old")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(Path, method, full)
    with pytest.raises(OSError, match="no room"):
        write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x.json"]
