"""Writers by name, and those that a package brings."""

import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

from lsp_fast.errors import ConfigError, LspFastError
from lsp_fast.storage.logger import RunLogger
from lsp_fast.storage.writers import registry
from lsp_fast.storage.writers.tensorboard import TensorBoard

PAGE = Path(__file__).parents[3] / "docs" / "logging.md"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A package as pip lays it: a module, and beside it its metadata with the entry points."""

    def lay(module, code, points):
        site = tmp_path / "site"
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(points)
        monkeypatch.syspath_prepend(str(site))

    yield lay
    for name in ("my_log", "broken_log"):
        sys.modules.pop(name, None)


def test_ours_are_there():
    assert registry.find("tensorboard") is TensorBoard
    assert registry.names()[:3] == ["tensorboard", "wandb", "mlflow"]
    registry.check(["tensorboard", "wandb", "mlflow"])


def test_the_pages_own_writer_is_found_by_its_entry_point_and_writes(install, tmp_path):
    code, points = re.findall(r"```(?:python|toml)\n(.*?)```", PAGE.read_text(), re.DOTALL)[:2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 16
    [name] = re.findall(r'^(\w+) = "my_log:\w+"', points, re.MULTILINE)
    section = points[points.index("[project.entry-points") :]
    [group] = re.findall(r'\[project\.entry-points\."([\w.]+)"\]', section)
    install("my_log", code, f"[{group}]\n" + section.split("\n", 1)[1].replace('"', ""))
    assert name in registry.names()
    log = RunLogger(tmp_path / "run", {"task": "t", "method": "m", "seed": 0}, 0, [name])
    log.scalars(10, {"eval/return": 1.5})
    log.scalars(20, {"x": 2.0})
    log.finish("finished")
    log = RunLogger(tmp_path / "run", {"task": "t", "method": "m", "seed": 0}, 2, [name])
    log.scalars(30, {"eval/return": 2.5})
    log.finish("finished")
    assert (tmp_path / "run" / "returns.csv").read_text().split() == ["10,1.5", "30,2.5"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tensorbord", "log = 'tensorbord': there is no such writer; did you mean tensorboard?"),
        ("zzz", "there are tensorboard, wandb, mlflow; metrics.jsonl, scores.json and pictures are written anyway"),
    ],
)
def test_a_name_that_nothing_has_is_refused(name, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        registry.find(name)


def test_a_package_that_does_not_load_is_named(install):
    install("broken_log", "import no_such_part", "[lsp_fast.log]\nbroken = broken_log:Writer\n")
    with pytest.raises(ConfigError, match=r"broken_log:Writer cannot be loaded \(ModuleNotFoundError: No module named"):
        registry.find("broken")


def test_a_library_that_is_not_installed_is_named_with_its_command(monkeypatch):
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(LspFastError, match=rf"--log {name} needs {name}.*pip install 'lsp-fast\[{name}\]'"):
            registry.find(name)


def test_the_group_is_what_the_page_says():
    assert f'"{registry.GROUP}"' in PAGE.read_text() and not importlib.metadata.entry_points(group=registry.GROUP)
