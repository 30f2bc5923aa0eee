"""An experiment's file, in TOML, becomes its runs: tasks x methods x seeds, and perhaps their transfers."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lsp_fast import envs
from lsp_fast.config import Config, base_config, check, flat, replace
from lsp_fast.envs import gym
from lsp_fast.errors import ConfigError, LspFastError
from lsp_fast.storage.writers import registry
from lsp_fast.sweeps.cell import Cell
from lsp_fast.training.data import with_whole_data


def read(path: str | Path, out: str | Path, **values: Any) -> list[Cell]:
    """The runs that an experiment's file names, sources of transfers first; nothing is written.

    Args:
        path: the file.
        out: folder that the runs' folders lie in.
        values: configuration values, as `make_config` takes them, that override the file's; also `seeds` and `preset`.

    Raises:
        ConfigError: the file cannot be read or asks for something that cannot run; it names the file and what to mend.
    """
    path, out = Path(path), Path(out)
    content = parse(path)
    content.pop("search", None)  # its values come in as `values`
    try:
        return _cells(content, out, {name.replace("__", "."): value for name, value in values.items()})
    except LspFastError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(path: Path) -> dict[str, Any]:
    """The file's tables.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path} cannot be read: {why}; name a file, as those in experiments/") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}; docs/running.md shows a file") from error


PLACES = {
    "seed": "seeds=[{value}]",
    "seeds": "seeds at the top, which all runs share",
    "preset": "preset at the top, which all runs share",
    "task": "the file's [[tasks]], a table a task",
    "algorithm": "the file's [[methods]], a table a method",
}
"""Values that make runs rather than being a run's own, and how they are given."""


def _cells(content: dict[str, Any], out: Path, given: Mapping[str, Any]) -> list[Cell]:
    common, given = dict(content), dict(given)
    for name in ("preset", "seeds"):
        common |= {name: given.pop(name)} if name in given else {}
    preset, seeds = common.pop("preset", "paper"), common.pop("seeds", [0])
    tasks, methods = _tables(common, "tasks", "task"), _tables(common, "methods", "algorithm")
    target = common.pop("target", None)
    _check_seeds(seeds)
    if target is not None and not (isinstance(target, dict) and isinstance(target.get("task"), str)):
        raise ConfigError("[target] must name its task")
    if not isinstance(preset, str):
        raise ConfigError(f"preset = {preset!r}: must be a name in quotes")
    _refuse_misplaced(given, "given by hand", PLACES)
    _refuse_misplaced(common, "at the top", PLACES)
    for task in tasks:
        _refuse_misplaced(task, "in [[tasks]]", PLACES.keys() - {"task"})
    for method in methods:
        _refuse_misplaced(method, "in [[methods]]", PLACES.keys() - {"algorithm"})
        _check_only(method, [task["task"] for task in tasks])
        _refuse_misplaced(method.get("target", {}), "in a method's target", PLACES)
    _refuse_misplaced(target or {}, "in [target]", PLACES.keys() - {"task"})
    cells: dict[Path, Cell] = {}

    def add(cell: Cell) -> None:
        check(cell.config)
        if cells.setdefault(cell.folder, cell) != cell:
            raise ConfigError(f"two different runs would both be called {cell.folder.name}; give one's method a label")

    for seed in seeds:
        for task in tasks:
            for method in methods:
                values = dict(method)
                on_target, only = values.pop("target", {}), values.pop("tasks", None)
                if only is not None and task["task"] not in only:
                    continue
                if target is None and on_target:
                    raise ConfigError(f"{method['algorithm']} has values for a target, and there is no [target]")
                config = base_config(preset, values.pop("algorithm"))
                for table in (common, task, values):
                    config = _with_values(config, table)
                config = replace(_with_values(config, {"seed": seed}), given if target is None else _no_steps(given))
                config = with_whole_data(config)
                folder = out / _slug(f"{config.task}-{config.method}-{seed}")
                add(Cell(folder, config))
                if target is not None:
                    names = {f"transfer.{k}" if k in TRANSFER else k: v
                             for k, v in {**flat(target), **flat(on_target), **given}.items()}  # fmt: skip
                    # What the source began with is its own matter.
                    later = replace(config, {"data": "", "offline": False, "transfer.source": str(folder), **names})
                    name = _slug(f"{later.task}-from-{task['task']}-{later.method}-{seed}")
                    overrides = {k.replace(".", "__"): v for k, v in names.items()}
                    add(Cell(out / name, later, folder, overrides))
    registry.check(sorted({name for cell in cells.values() for name in cell.config.log}))
    for task in sorted({cell.config.task for cell in cells.values()}):
        if not task.startswith(gym.PREFIX) and task not in envs.task_names():
            envs.make(task)  # says which are near
    return sorted(cells.values(), key=lambda cell: cell.source is not None)


TRANSFER = ("freeze_policy", "relabel")


def _no_steps(values: Mapping[str, Any]) -> dict[str, Any]:
    """A length that is given by hand is the target's."""
    return {name: value for name, value in values.items() if name != "env_steps"}


def _check_seeds(seeds: Any) -> None:
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise ConfigError(f"seeds = {seeds!r}: must be a list of integers, as seeds = [0, 1, 2]")
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise ConfigError(f"seeds = {seeds!r}: {', '.join(map(str, twice))} is there more than once; name each once")


def _check_only(method: Mapping[str, Any], tasks: list[str]) -> None:
    """A method's own list of tasks; a name that is not there would leave its runs out without a word."""
    only = method.get("tasks", tasks)
    if not isinstance(only, list) or not only:
        raise ConfigError(f"tasks = {only!r} of {method['algorithm']}: must be a list of tasks")
    if unknown := [task for task in only if task not in tasks]:
        raise ConfigError(f"tasks of {method['algorithm']}: {unknown[0]!r} is none of [[tasks]], {', '.join(tasks)}")


def _refuse_misplaced(table: Any, where: str, names: Iterable[str]) -> None:
    """Values that would be taken over into every run without what belongs to them, or fold several runs into one."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: {table!r} must be a table of values")
    if found := sorted(set(table) & set(names)):
        name, value = found[0], table[found[0]]
        remedy = PLACES[name].format(value=str(value).strip("[]"))
        raise ConfigError(f"{name} = {value!r} {where}: use {remedy}")


def _tables(content: dict[str, Any], name: str, key: str) -> list[dict[str, Any]]:
    tables = content.pop(name, None)
    fits = isinstance(tables, list) and tables and all(isinstance(t, dict) and isinstance(t.get(key), str)
                                                       for t in tables)  # fmt: skip
    if not fits:
        raise ConfigError(f'at least one [[{name}]] with {key} = "..." is needed')
    assert isinstance(tables, list)
    return tables


def _with_values(config: Config, table: Mapping[str, Any]) -> Config:
    return replace(config, flat(table))


def _slug(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text).strip("-")
