"""The folder of a run: what lies where, who holds it, and whether a configuration may go on in it."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from lsp_fast.config import Config, differences, from_dict, replace, to_dict
from lsp_fast.errors import CheckpointError, ConfigError
from lsp_fast.files import write_text
from lsp_fast.storage import checkpoint

# What may change between two starts of one run: nothing that decides what is learned.
RESUMABLE = {
    "env_steps", "label", "device", "backend", "threads", "process_timeout", "max_minutes", "preset", "train.log_every",
    "train.health_every", "train.checkpoint_every", "train.cuda_graph", "train.video_every", "collect.workers", "log",
}  # fmt: skip

KEPT = {"planner.noise", "planner.precision", "skill.offset", "observation.vectors"}
"""What a run keeps as it began where `auto` is asked for, since its numbers depend on it."""


class RunFolder:
    """Paths inside a run's folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.checkpoints = self.path / "checkpoints"
        self.replay = self.path / "replay"
        self.metrics = self.path / "metrics.jsonl"
        self.scores = self.path / "scores.json"
        self.curve = self.path / "learning_curve.png"
        self.trace = self.path / "trace.json"
        self._lock: int | None = None

    def replay_of(self, rank: int) -> Path:
        """Where one of several processes keeps its experience."""
        return self.replay if rank == 0 else self.path / f"replay-{rank}"

    def lock(self) -> None:
        """Keep every other process from training in this folder until `release` or this process's end.

        Does nothing where there is no such folder yet, or where its file system knows no locks.

        Raises:
            ConfigError: another process holds it.
        """
        if self._lock is not None:
            return
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise ConfigError(
                f"another process is training in {self.path}; wait for it, or choose another --logdir"
            ) from error
        except OSError:
            os.close(handle)
            return
        self._lock = handle

    def release(self) -> None:
        """Let others have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def continued(self, config: Config) -> Config:
        """`config`, where it says `auto` with what the run that lies here began with (`KEPT`)."""
        if not self.config.exists():
            return config
        changed = differences(self.read_config(), config)
        kept = {name: old for name, (old, new) in changed.items() if name in KEPT and new == "auto"}
        if config.algorithm == "dreamer" and changed.get("skill.per_plan", (0,))[0] == 1:
            # A preset's number told nothing of rows without skills once; such a run is read as one of 1.
            kept["skill.per_plan"] = 1
        return replace(config, kept)

    def find(self, config: Config) -> dict[str, Any] | None:
        """The newest checkpoint of the run of this configuration; None where the run is new. Nothing is written.

        Raises:
            ConfigError: the folder holds something else, or a run with another configuration.
            CheckpointError: no checkpoint of the run can be read.
        """
        if self.config.exists():
            changed = {k: v for k, v in differences(self.read_config(), config).items() if k not in RESUMABLE}
            if "processes" in changed:
                there, asked = changed["processes"]
                raise ConfigError(
                    f"processes = {asked}: the run in {self.path} is of {there}, each with experience of its own; go "
                    f"on with --processes {there}, or choose another --logdir"
                )
            if changed:
                lines = [f"  {name}: {old!r} there, {new!r} asked for" for name, (old, new) in changed.items()]
                raise ConfigError(
                    f"{self.path} holds a run with another configuration; choose another --logdir:\n" + "\n".join(lines)
                )
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ConfigError(f"{self.path} is not empty and holds no run; choose another --logdir")
        return checkpoint.load_latest(self.checkpoints)

    def claim(self, config: Config) -> None:
        """Make the folder, lock it and write the configuration.

        Raises:
            ConfigError: it cannot be written, or another process holds it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock()
            write_text(self.config, json.dumps(to_dict(config), indent=2) + "\n")
        except OSError as error:
            raise ConfigError(f"cannot write to {self.path}: {error.strerror}; choose another --logdir") from error

    def read_config(self) -> Config:
        """The configuration of the run that lies here.

        Raises:
            CheckpointError: there is none, or it cannot be read.
        """
        try:
            return from_dict(json.loads(self.config.read_text()))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CheckpointError(f"{self.path} holds no run (no {self.config.name}); name a run's folder") from error
        except (OSError, json.JSONDecodeError, UnicodeDecodeError, ConfigError) as error:
            raise CheckpointError(f"{self.config} cannot be used: {error}") from error
