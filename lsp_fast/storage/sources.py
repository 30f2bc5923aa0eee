"""Where trained agents lie: a run's folder, or one that came with the package (`pretrained:NAME`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lsp_fast.config import Config, check, replace
from lsp_fast.errors import CheckpointError
from lsp_fast.storage import checkpoint, pretrained
from lsp_fast.storage.run_folder import RunFolder


def whole(source: str | Path) -> str:
    """The source as every folder finds it again: an absolute path, or `pretrained:NAME` as it is."""
    return str(source) if pretrained.name_of(source) else str(Path(source).expanduser().resolve())


def label(source: str | Path) -> str:
    """What folders that are named after a source call it."""
    return pretrained.name_of(source) or Path(source).resolve().name


def read_config(source: str | Path) -> Config:
    """What it was trained as.

    Raises:
        CheckpointError: there is none, or it cannot be read.
        LspFastError: no pretrained agent has that name.
    """
    name = pretrained.name_of(source)
    return RunFolder(source).read_config() if name is None else pretrained.read(name)[0]


def read_state(source: str | Path, env_steps: int | None = None) -> dict[str, Any]:
    """A checkpoint: the newest that can be read, or the one of so many environment steps. Of a pretrained agent it has
    only weights and what they fit.

    Raises:
        CheckpointError: there is none, or it cannot be read.
        LspFastError: no pretrained agent has that name.
    """
    if (name := pretrained.name_of(source)) is not None:
        state = pretrained.read(name)[1]
        if env_steps not in (None, state["env_steps"]):
            raise CheckpointError(
                f"{source} has learned for {state['env_steps']} environment steps, not {env_steps}: this version of "
                "lsp_fast has another one"
            )
        return state
    checkpoints = RunFolder(source).checkpoints
    if env_steps is not None:
        return checkpoint.load(checkpoint.path_of(checkpoints, env_steps))
    state = checkpoint.load_latest(checkpoints)
    if state is None:
        raise CheckpointError(f"{source} has no checkpoint yet; let the run go on until it has written one")
    return state


def read_run(source: str | Path, **overrides: Any) -> tuple[Config, dict[str, Any]]:
    """Configuration (with overrides) and newest checkpoint.

    Raises:
        CheckpointError: no run, or no readable checkpoint.
        LspFastError: no pretrained agent has that name.
    """
    config = replace(read_config(source), overrides)
    check(config)
    return config, read_state(source)
