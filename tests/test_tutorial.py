"""The tutorial does what it says, from the first command to the policy that runs without PyTorch: smoke's sizes."""

import subprocess
import sys
from pathlib import Path

import pytest
import steps

from lsp_fast.cli import main

SECTIONS = steps.sections(Path(__file__).parents[1] / "docs" / "tutorial.md", ("lsp-fast", "python"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder where Python finds modules, as the page has its reader set it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(place, capsys):
    for title, found in SECTIONS.items():
        for step in found:
            if isinstance(step, tuple):
                code = step[1]
                name = code.split()[1]  # the first line is a comment with the file's name
                (place / name).write_text(code)
                if name == "on_the_robot.py":
                    said = subprocess.run([sys.executable, name], capture_output=True, text=True, check=True).stdout
                    assert said.startswith("[") and len(said.split()) >= 2, said
            elif step[0] == "python":
                subprocess.run([sys.executable, *step[1:]], check=True)
            else:
                assert main(steps.small(step[1:])) == 0, (title, step, capsys.readouterr().err)
    assert (place / "report.html").stat().st_size > 10_000
    assert (place / "cheetah.mp4").exists() or "no frames" in capsys.readouterr().out
    assert (place / "policy" / "policy.json").exists()


def test_every_file_that_the_page_names_is_one_that_is_written():
    for found in SECTIONS.values():
        for language, code in (step for step in found if isinstance(step, tuple)):
            assert language == "python" and code.startswith("# ") and code.split()[1].endswith(".py")
