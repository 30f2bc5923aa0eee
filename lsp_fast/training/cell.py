"""One run of an experiment: what is to be trained where, what lies there already, and the training."""

from __future__ import annotations

import json
import os
import textwrap
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from submitit.helpers import DelayedSubmission

from lsp_fast.config import Config, differences
from lsp_fast.errors import CheckpointError, ConfigError, LspFastError
from lsp_fast.storage import checkpoint
from lsp_fast.storage.metrics import last_row
from lsp_fast.storage.run_folder import RESUMABLE, RunFolder
from lsp_fast.training.loop import train
from lsp_fast.training.run import Result
from lsp_fast.training.transfer import transfer_config

FROM_SOURCE = {"transfer.source", "transfer.source_env_steps"}
"""Values that only the source's folder and checkpoint can tell; `train` compares them."""
WIDEST = 300
"""Characters of a reason; a library's own may fill pages."""


@dataclass(frozen=True)
class Failed:
    """What a run returns that failed."""

    reason: str
    """In one line."""


@dataclass(frozen=True)
class Cell:
    """One run of an experiment; called, it trains to the end or goes on with what is there."""

    folder: Path
    config: Config
    """Of a run that takes over another one: without what only that one's checkpoint can tell."""
    source: Path | None = None
    """Folder of the run that it takes over, which must be finished first."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Of a run that takes over another one: what differs from that."""

    @property
    def env_steps(self) -> int:
        """How far the run has come, by its newest checkpoint."""
        kept = checkpoint.list_checkpoints(RunFolder(self.folder).checkpoints)
        return int(kept[-1].stem) if kept else 0

    @property
    def logged_env_steps(self) -> int:
        """How far the run has come, by its newest metrics."""
        row = last_row(RunFolder(self.folder).metrics)
        return self.env_steps if row is None else row["env_steps"]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: all steps are made, and after them the last updates and evaluation, too."""
        if (steps := self.env_steps) < self.config.env_steps:
            return False
        folder = RunFolder(self.folder)
        try:
            told = checkpoint.plain_values(checkpoint.path_of(folder.checkpoints, steps)).get("finished")
        except CheckpointError:
            return False  # the run goes on from the one before, and says so
        return _evaluated(folder, steps) if told is None else told

    def changed(self) -> dict[str, tuple[Any, Any]]:
        """Values by dotted name, there and asked for, in which the run that lies there is another one.

        Raises:
            ConfigError: something else lies there, or a run whose configuration cannot be read.
        """
        folder = RunFolder(self.folder)
        if not folder.config.exists():
            if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
                raise ConfigError(f"{folder.path} is not empty and holds no run; name another --out, or delete it")
            return {}
        try:
            there = folder.read_config()
        except CheckpointError as error:
            raise ConfigError(f"{error}; name another --out, or delete {folder.path}") from error
        free = RESUMABLE | (FROM_SOURCE if self.source is not None else set())
        asked = folder.continued(self.config)
        return {name: both for name, both in differences(there, asked).items() if name not in free}

    def __call__(self) -> str | Failed:
        """Train. Returns `finished`, `interrupted` or `timed out`, or why it failed."""
        if os.environ.get("SUBMITIT_EXECUTOR") == "local":
            # Ctrl-C at a terminal reaches the sweep alone, which then asks every run to end with a checkpoint.
            os.setpgrp()
        try:
            config = self.config
            if self.source is not None:
                device = {name: getattr(config, name) for name in ("device", "backend", "threads")}
                config = transfer_config(self.source, self.folder, **{**self.overrides, **device})
            result: Result = train(config, self.folder, progress=False)
        except Exception as error:
            traceback.print_exc()  # for the log
            return Failed(reason(error))
        return "timed out" if result.timed_out else "finished" if result.finished else "interrupted"

    def checkpoint(self) -> Any:
        """What submitit puts into the queue again where a cluster takes the machine away: the same, which goes on."""
        return DelayedSubmission(self)


def reason(error: Exception) -> str:
    """An error in one line: its message, and of one that is not meant for users its kind, too."""
    message = " ".join(str(error).split())
    if isinstance(error, LspFastError):
        return message
    return textwrap.shorten(f"{type(error).__name__}: {message}".removesuffix(": "), WIDEST, placeholder=" ...")


def check_folders(cells: Iterable[Cell]) -> None:
    """Refuse where a run's folder holds another one than is asked for: its curve would pass for this one's.

    Raises:
        ConfigError: it names the values and the remedy, in a line.
    """
    other = [(cell.folder, changed) for cell in cells if (changed := cell.changed())]
    if not other:
        return
    folder, changed = other[0]
    values = "; ".join(f"{name}: {old!r} there, {new!r} asked for" for name, (old, new) in changed.items())
    more = f" (and so do {len(other) - 1} more folders)" if len(other) > 1 else ""
    raise ConfigError(
        f"{folder} holds a run with other values{more}, {values}; name another --out, or delete the folder"
    )


def _evaluated(folder: RunFolder, env_steps: int) -> bool:
    """Whether the last evaluation stands at so many steps: of checkpoints from before they said `finished`."""
    try:
        [row] = json.loads(folder.scores.read_text())
        return row["xs"][-1] == env_steps
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return False
