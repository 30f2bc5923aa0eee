"""The README and the pages in docs/ say what is so: examples run, links lead somewhere, every metric is explained."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lsp_fast.cli import parse
from lsp_fast.commands import COMMANDS
from lsp_fast.storage.metrics import read_rows
from lsp_fast.training.loop import train

ROOT = Path(__file__).parents[1]
READMES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md", ROOT / "experiments" / "README.md")
PAGES = sorted([*READMES, *(ROOT / "docs").glob("*.md")])


def examples(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def anchors(page):
    """What a link may name in a page: its headings in lower case, without punctuation, words joined by hyphens."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readmes_example_runs(tmp_path, monkeypatch):
    [example] = examples(ROOT / "README.md")
    assert len([line for line in example.splitlines() if line and not line.startswith(("from", "import", "#"))]) <= 10
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["action"].shape == (1, 6)
    assert (tmp_path / "runs" / "example" / "learning_curve.png").exists()


@pytest.mark.parametrize("page", ["adding-a-variant.md", "adding-a-backend.md"])
def test_the_pages_examples_run(page):
    found = examples(ROOT / "docs" / page)
    assert found
    for example in found:
        exec(compile(example, page, "exec"), {})


TASKS = {
    "my_tasks": "gym:my_tasks:Reach-v0",
    "my_robot": "gym:my_robot:Pointer-v0 --obs both --observation.resize",
    "my_choices": "gym:my_choices:Cart-v0",
}
"""What the page calls its examples, and how it trains on them."""


@pytest.mark.slow
@pytest.mark.parametrize("module", TASKS)
def test_the_task_of_the_page_trains(module, tmp_path):
    page = ROOT / "docs" / "adding-a-task.md"
    assert f"--task {TASKS[module]}\n" in page.read_text() and len(examples(page)) == len(TASKS)
    [example] = [example for example in examples(page) if example.startswith(f"# {module}.py\n")]
    (tmp_path / f"{module}.py").write_text(example)
    options = f"train --preset smoke --device cpu --task {TASKS[module]} --env-steps 1000 --logdir run"
    subprocess.run([sys.executable, "-m", "lsp_fast.cli", *options.split()], cwd=tmp_path, check=True)
    assert read_rows(tmp_path / "run" / "metrics.jsonl")[-1]["env_steps"] == 1000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for name, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text()):
        target = page.parent / name if name else page
        assert target.exists(), name
        assert not anchor or anchor in anchors(target), f"{name}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_commands(page):
    for line in re.findall(r"^    (?:\S*/)?lsp-fast (.*)", page.read_text(), re.MULTILINE):
        argv = line.split("#")[0].split()
        assert argv[0] in COMMANDS or argv[0] == "COMMAND", line
        if argv[0] != "COMMAND":
            parse(argv)


def test_every_metric_is_explained(smoke, tmp_path):
    told = (ROOT / "docs" / "metrics.md").read_text()
    config = smoke(env_steps=1100, model__discount_head="on", planner__value="task")
    rows = read_rows(train(config, tmp_path / "run", progress=False).folder / "metrics.jsonl")
    composing = smoke(env_steps=1100, skill__mi="compose", value__skill=True)
    rows += read_rows(train(composing, tmp_path / "composing", progress=False).folder / "metrics.jsonl")
    assert "behavior/mutual_information" in rows[-1]
    for name in set().union(*rows):
        assert f"`{name}`" in told or name.endswith("grad_norm"), name
