"""A run that goes on from another task's (SPEC section 5, transfer)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lsp_fast.config import Config, check, replace
from lsp_fast.errors import CheckpointError, ConfigError
from lsp_fast.storage import checkpoint
from lsp_fast.storage.run_folder import RunFolder
from lsp_fast.training.loop import Result, train


def transfer_config(source: str | Path, logdir: str | Path, task: str, **overrides: Any) -> Config:
    """The configuration of a run on `task` that takes over what the run in `source` has learned.

    Args:
        source: a run's folder. Nothing in it is changed.
        logdir: of the new run; where it has begun already, the checkpoint that it began from stays.
        task: with observations and actions of the source's sizes.
        overrides: values by their dotted names, the dot written as two underscores; all others are the source's.

    Raises:
        CheckpointError: there is no run or no checkpoint in `source`.
        ConfigError: a value that does not fit.
    """
    folder, new = RunFolder(source), RunFolder(logdir)
    if folder.path.resolve() == new.path.resolve():
        raise ConfigError(f"{source} is the source itself; choose another --logdir")
    given = {"task": task, **{k.replace("__", "."): v for k, v in overrides.items()}}
    begun = new.read_config() if new.config.exists() else None
    if begun is not None and begun.transfer.source and Path(begun.transfer.source).resolve() == folder.path.resolve():
        # As it was begun, whatever has become of the source since.
        config = replace(begun, given)
    else:
        config = folder.read_config()
        # The newest that can be read, as a resumed run would take it.
        state = checkpoint.load_latest(folder.checkpoints)
        if state is None:
            raise CheckpointError(f"{source} has no checkpoint yet; let the run go on until it has written one")
        # What the source itself was transferred from, and how, is its own matter.
        fresh = {"transfer.freeze_policy": False, "transfer.relabel": False}
        taken = {"transfer.source": str(folder.path), "transfer.source_env_steps": state["env_steps"]}
        config = replace(config, {**fresh, **taken, **given})
    check(config)
    return config


def transfer(source: str | Path, logdir: str | Path, task: str, *, progress: bool = True, **overrides: Any) -> Result:
    """Train on `task` from what the run in `source` has learned; the same call goes on with a run that was stopped.

    Arguments and errors are `transfer_config`'s and `lsp_fast.training.loop.train`'s.
    """
    return train(transfer_config(source, logdir, task, **overrides), logdir, progress=progress)
