"""Configurations from rows, from JSON, and what sets two of them apart."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from lsp_fast.config.check import check
from lsp_fast.config.rows import ALGORITHMS, PRESETS, Overrides
from lsp_fast.config.values import Config, to_dict
from lsp_fast.errors import ConfigError

NOW = {"planner.shared_noise": "planner.rollouts = shared"}
"""What a value that was is now."""


def replace(config: Config, overrides: Overrides) -> Config:
    """Return `config` with dotted fields replaced, e.g. `{"model.deter": 128}`; an unknown name raises ConfigError."""
    result: Any = config
    for name, value in overrides.items():
        result = _replace_one(result, name.split("."), name, value)
    return result


def _replace_one(node: Any, path: list[str], name: str, value: Any) -> Any:
    names = [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
    if path[0] not in names:
        near = [NOW[name]] if name in NOW else difflib.get_close_matches(path[0], names, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ConfigError(f"unknown configuration value {name!r}{hint}")
    if isinstance(value, list) and isinstance(getattr(node, path[0]), tuple):  # as JSON and TOML have it
        value = tuple(value)
    child = value if len(path) == 1 else _replace_one(getattr(node, path[0]), path[1:], name, value)
    return dataclasses.replace(node, **{path[0]: child})  # pyright: ignore[reportArgumentType]


def base_config(preset: str = "paper", algorithm: str = "lsp") -> Config:
    """The preset's and then the algorithm's row applied to the defaults, unchecked (a parser's starting point)."""
    for kind, name, table in (("preset", preset, PRESETS), ("algorithm", algorithm, ALGORITHMS)):
        if name not in table:
            raise ConfigError(f"unknown {kind} {name!r}; there are {', '.join(table)}")
    rows = {**PRESETS[preset], **ALGORITHMS[algorithm], "preset": preset, "algorithm": algorithm}
    return replace(Config(), rows)


def make_config(preset: str = "paper", algorithm: str = "lsp", **overrides: Any) -> Config:
    """Build and check a configuration: preset, then algorithm, then `overrides`.

    Nested fields are named with a double underscore for the dot: `make_config("cpu", task="walker_walk",
    skill__beta=0.3)`. Raises ConfigError naming the value and the remedy.
    """
    config = replace(base_config(preset, algorithm), {k.replace("__", "."): v for k, v in overrides.items()})
    check(config)
    return config


def from_dict(data: Mapping[str, Any]) -> Config:
    """The inverse of `to_dict`. An unknown or mistyped value, or none of `task`, `algorithm` and `seed`, raises
    ConfigError.

    Any other value that is missing was added after the configuration was written, and gets its default: what a value
    added later stands for by default is how things were done before.
    """
    if isinstance(data, Mapping) and (missing := [name for name in ("task", "algorithm", "seed") if name not in data]):
        raise ConfigError(f"not a configuration of a run: {', '.join(missing)} missing")
    planner = data.get("planner") if isinstance(data, Mapping) else None
    if isinstance(planner, Mapping) and isinstance(shared := planner.get("shared_noise"), bool):
        # Once a switch of its own.
        rest = {k: v for k, v in planner.items() if k != "shared_noise"}
        data = {**data, "planner": {"rollouts": "shared" if shared else "sampled", **rest}}
    config = _from_dict(Config, data, "")
    if isinstance(config.model.discount_head, bool):
        # Written before there was `auto`, which is off for every task but these.
        head = "on" if config.model.discount_head else "off" if config.task.startswith("gym:") else "auto"
        config = replace(config, {"model.discount_head": head})
    if "noise" not in data.get("planner", {}):
        # `auto` came later than `tensors`, which was the only way once.
        config = replace(config, {"planner.noise": "tensors"})
    if "observation" not in data and config.task.startswith("gym:"):
        # Frames were flattened then, like all else.
        config = replace(config, {"observation.vectors": "all"})
    if "offset" not in data.get("skill", {}) and config.predicts_terminations:
        # There was none before.
        config = replace(config, {"skill.offset": "off"})
    if "starts" not in data.get("behavior", {}) and config.algorithm == "dreamer":
        # It told nothing then of rows without skills, which learned from fewer rollouts than the others.
        config = replace(config, {"skill.per_plan": 1})
    check(config)
    return config


def _from_dict(cls: Any, data: Any, prefix: str) -> Any:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{prefix or 'the configuration'} must be a table, not {type(data).__name__}")
    default = cls()
    names = {f.name for f in dataclasses.fields(cls)}
    if wrong := sorted(set(data) - names):
        raise ConfigError(f"the configuration was written by another version: {', '.join(prefix + n for n in wrong)}")
    values: dict[str, Any] = {}
    for name in names & set(data):
        value, old = data[name], getattr(default, name)
        if dataclasses.is_dataclass(old):
            value = _from_dict(type(old), value, f"{prefix}{name}.")
        elif isinstance(old, float) and type(value) is int:
            value = float(value)
        elif isinstance(old, tuple) and isinstance(value, list):
            value = tuple(value)
        elif type(value) is not type(old) and not (name == "discount_head" and isinstance(value, bool)):
            raise ConfigError(f"{prefix}{name} = {value!r}: must be of type {type(old).__name__}")
        values[name] = value
    return cls(**values)


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested tables by their dotted names: `{"model": {"deter": 128}}` -> `{"model.deter": 128}`."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted names of the fields in which two configurations differ, with both values."""
    left, right = flat(to_dict(a)), flat(to_dict(b))
    return {name: (left[name], right[name]) for name in left if left[name] != right[name]}
