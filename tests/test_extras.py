"""A library that is not installed is asked for by the command that installs it."""

import re
import sys
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import pytest

from lsp_fast import extras
from lsp_fast.errors import LspFastError

ROOT = Path(__file__).parents[1]


def test_what_is_installed_is_given():
    assert extras.load("json.decoder", "search", "reading").JSONDecodeError


def test_what_is_not_is_named_with_its_command():
    with pytest.raises(LspFastError, match=r"--log x needs no_such; install it: pip install 'lsp-fast\[wandb\]'"):
        extras.load("no_such.part", "wandb", "--log x")


def test_what_is_there_and_broken_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("import no_such_part")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LspFastError, match=r"broken_library \(No module named 'no_such_part'\); install it"):
        extras.load("broken_library", "data", "data")
    assert "broken_library" not in sys.modules


def test_every_extra_that_is_named_exists():
    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    named = {
        name for path in (ROOT / "lsp_fast").rglob("*.py")
        for name in re.findall(r'extras\.load\(\s*"[\w.]+",\s*"(\w+)"', path.read_text())
    }  # fmt: skip
    assert named and named <= known
    assert metadata("lsp-fast")["Name"] == "lsp-fast"
