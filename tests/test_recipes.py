"""Every recipe of docs/recipes.md does what it says, with the smoke preset's sizes; what needs a GPU or a cluster is
only parsed."""

import contextlib
import importlib.metadata
import os
import re
from pathlib import Path

import pytest
import steps

from lsp_fast.cli import main, parse

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
UNTRIED = ("GPU", "Slurm")
"""Sections that say so themselves."""
SLOW = ("Compare two methods", "Transfer")


SECTIONS = {
    title: [step[1:] if isinstance(step, list) else step for step in found]
    for title, found in steps.sections(PAGE).items()
}


def test_there_are_recipes():
    assert len(SECTIONS) == 9 and all(SECTIONS[title] for title in SECTIONS)
    text = PAGE.read_text()
    for title in UNTRIED:
        assert re.search(rf"## {title}\n\nNot (run|tried)", text)
    for title in SECTIONS:
        assert f"](#{title.lower().replace(' ', '-')})" in text, title


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all recipes are tried, one after the other; most begin from the first one's run."""
    path = tmp_path_factory.mktemp("recipes")
    with contextlib.chdir(path):
        assert main(steps.small(SECTIONS["Watch a run"][0])) == 0
    return path


@pytest.mark.parametrize(
    "title",
    [
        pytest.param(title, marks=[pytest.mark.slow] if title in SLOW else [])
        for title in SECTIONS
        if title not in UNTRIED
    ],
)
def test_a_recipe_does_what_it_says(title, folder, monkeypatch):
    monkeypatch.chdir(folder)
    for step in SECTIONS[title]:
        if isinstance(step, list):
            assert main(steps.small(step)) == 0, step
            continue
        language, code = step
        if language == "toml":
            code = code.replace('preset = "cpu"', 'preset = "smoke"\ndevice = "cpu"\nenv_steps = 1100')
            Path(re.search(r"`(\w+\.toml)`", PAGE.read_text())[1]).write_text(code)
        else:
            exec(compile(code.replace("env_steps=8000", "env_steps=1020"), title, "exec"), {})
    assert os.listdir("runs")


@pytest.mark.parametrize("title", UNTRIED)
def test_what_cannot_be_tried_here_is_understood(title, monkeypatch):
    monkeypatch.chdir(PAGE.parents[1])
    for step in SECTIONS[title]:
        command = parse(step)
        if "--dry-run" in step:
            assert command.run() == 0


def test_other_programs_of_the_page_are_there():
    text = PAGE.read_text()
    assert "\n    tensorboard --logdir runs\n" in text
    assert importlib.metadata.entry_points(group="console_scripts", name="tensorboard")
    scripts = re.findall(r"^    \S*python (\S+\.py)", text, re.MULTILINE)
    assert all((PAGE.parents[1] / script).exists() for script in scripts)
    targets, makefile = re.findall(r"^    make (\w+)", text, re.MULTILINE), (PAGE.parents[1] / "Makefile").read_text()
    assert targets and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
