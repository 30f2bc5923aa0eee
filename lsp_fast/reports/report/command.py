"""The command that goes on with a run: its preset, its algorithm, and every value that these do not give."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from lsp_fast.config import Config, base_config, differences

NAMES = ("preset", "algorithm", "task", "seed", "env_steps")
"""That stand in front, whether the preset gives them or not."""


def go_on(config: Config, folder: Path) -> str:
    """For a shell. Given again, it goes on from the folder's newest checkpoint, and may name more `--env-steps`."""
    changed = differences(base_config(config.preset, config.algorithm), config)
    words = [word for name in NAMES for word in _option(name, getattr(config, name))]
    words += [word for name, (_, value) in changed.items() if name not in NAMES for word in _option(name, value)]
    return shlex.join(["lsp-fast", "train", *words, "--logdir", str(folder)])


def _option(name: str, value: Any) -> list[str]:
    """A configuration value as the command line takes it."""
    group, dot, last = name.rpartition(".")
    if isinstance(value, bool):
        return ["--" + group + dot + ("" if value else "no-") + last.replace("_", "-")]
    option = "--" + name.replace("_", "-")
    if isinstance(value, tuple):
        return [option, *map(str, value)]
    # A value that begins with a dash would pass for an option.
    return [f"{option}={value}"] if str(value).startswith("-") else [option, str(value)]
