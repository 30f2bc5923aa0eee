"""One run of an experiment: what is to be trained where, what lies there already, and the training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import textwrap
import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from submitit.helpers import DelayedSubmission, TorchDistributedEnvironment

from lsp_fast import machine
from lsp_fast.config import Config, differences, replace
from lsp_fast.errors import CheckpointError, ConfigError, LspFastError
from lsp_fast.storage import checkpoint
from lsp_fast.storage.metrics import last_row
from lsp_fast.storage.run_folder import RESUMABLE, RunFolder
from lsp_fast.training.loop import train
from lsp_fast.training.run import Result
from lsp_fast.training.signals import Stop, stop_on_signal
from lsp_fast.training.transfer import transfer_config

FROM_SOURCE = {"transfer.source", "transfer.source_env_steps"}
"""Values that only the source's folder and checkpoint can tell; `train` compares them."""
WIDEST = 300
"""Characters of a reason; a library's own may fill pages."""
WARNING = signal.SIGUSR2
"""What Slurm sends a job before its time is over, as submitit has asked it to."""
WITHOUT_A_STEP = 3
"""Starts of one job in a queue after which one that makes no step is the last."""
PATIENCE = 120
"""Seconds that a job waits for the folder: the one before it may still write its checkpoint."""


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
        """Train. Returns `finished`, `interrupted` or `timed out`, or why it failed.

        On Slurm also `preempted`: the job has put itself into the queue again, or whoever began it should.
        """
        where = os.environ.get("SUBMITIT_EXECUTOR")
        if where == "local":
            # Ctrl-C at a terminal reaches the sweep alone, which then asks every run to end with a checkpoint.
            os.setpgrp()
        config = self.config
        try:
            if where != "slurm":
                return _outcome(self._train(config))
            # submitit's own answer to the warning would lose what was learned since the newest checkpoint.
            with stop_on_signal(WARNING) as stop:
                if config.processes > 1:  # each a task of the job
                    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
                if _first():
                    _wait_for(self.folder, stop)
                before, result = self._made, self._train(_with_share_of_node(config))
                if result.finished or WARNING not in stop.signals:
                    return _outcome(result)
                return _come_back(before != self._made)
        except Exception as error:
            traceback.print_exc()  # for the log
            return Failed(reason(error))

    def _train(self, config: Config) -> Result:
        if self.source is not None:
            device = {name: getattr(config, name) for name in ("device", "backend", "threads")}
            config = transfer_config(self.source, self.folder, **{**self.overrides, **device})
        return train(config, self.folder, progress=False)

    @property
    def _made(self) -> tuple[int, int]:
        """Environment steps and updates of the newest checkpoint."""
        steps, folder = self.env_steps, RunFolder(self.folder)
        try:
            return steps, checkpoint.plain_values(checkpoint.path_of(folder.checkpoints, steps)).get("updates", 0)
        except CheckpointError:
            return 0, 0

    def checkpoint(self) -> Any:
        """What submitit puts into the queue again where a cluster takes the machine away: the same, which goes on.

        That is for a warning that comes before the run listens, and for clusters other than Slurm.
        """
        return DelayedSubmission(self)


def _outcome(result: Result) -> str:
    return "timed out" if result.timed_out else "finished" if result.finished else "interrupted"


def _wait_for(path: Path, stop: Stop) -> None:
    """Until nobody trains in the folder, or patience ends: a job may be begun again while its end is still written."""
    folder, until = RunFolder(path), time.monotonic() + PATIENCE
    while True:
        try:
            folder.lock()
        except ConfigError:
            if stop.asked or time.monotonic() > until:
                return  # training says what is wrong
            time.sleep(1)
        else:
            return folder.release()


def _with_share_of_node(config: Config) -> Config:
    """As many threads as the job was given processors: not every cluster binds a job to its own."""
    given = os.environ.get("SLURM_CPUS_ON_NODE", "")
    if config.threads or not given.isdecimal():
        return config
    tasks = os.environ.get("SLURM_NTASKS_PER_NODE", "")
    share = int(given) // (int(tasks) if tasks.isdecimal() else 1)
    return replace(config, {"threads": max(1, min(share, machine.cores()))})


def _first() -> bool:
    """Whether this is the job's first task, which speaks for all of them."""
    return os.environ.get("SLURM_PROCID", "0") == "0"


def _come_back(made_steps: bool) -> str | Failed:
    """Put this job into Slurm's queue again, unless it would begin for ever without coming anywhere."""
    if not made_steps and int(os.environ.get("SLURM_RESTART_COUNT", 0)) >= WITHOUT_A_STEP:
        return Failed("its time on the cluster ends before it makes a step; ask for more with timeout_min=...")
    if _first():
        done = subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], capture_output=True, text=True)
        print(f"put into the queue again: {done.stderr.strip() or 'yes'}", flush=True)
    return "preempted"


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
