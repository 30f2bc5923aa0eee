"""Experiments as files: tasks x methods x seeds, run side by side, here or on a cluster (`lsp-fast sweep`).

A file in TOML says what is run; docs/running.md describes it and experiments/ holds the paper's. Every run is an
ordinary one in a folder of its own: a sweep that is begun again goes on with what is missing, and nothing else.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import time
import tomllib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit
from submitit.helpers import DelayedSubmission
from tqdm import tqdm

from lsp_fast import envs, machine
from lsp_fast.config import Config, base_config, check, flat, replace
from lsp_fast.envs import gym
from lsp_fast.errors import ConfigError, LspFastError
from lsp_fast.reports.plot import plot
from lsp_fast.storage import checkpoint
from lsp_fast.storage.metrics import last_row
from lsp_fast.storage.run_folder import RunFolder
from lsp_fast.training.loop import train
from lsp_fast.training.run import Result
from lsp_fast.training.signals import stop_on_signal
from lsp_fast.training.transfer import transfer_config

POLL_SECONDS = 0.5
LOGS, FIGURE = "logs", "learning_curves.png"
MINUTES = {"local": 60 * 24 * 7}
"""A run's limit, for submitit wants one; on a cluster `timeout_min` says another."""


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
        """Whether nothing is left to do."""
        return self.env_steps >= self.config.env_steps

    def __call__(self) -> str:
        """Train. Returns `finished`, `interrupted` or `timed out`."""
        if os.environ.get("SUBMITIT_EXECUTOR") == "local":
            # Ctrl-C at a terminal reaches the sweep alone, which then asks every run to end with a checkpoint.
            os.setpgrp()
        config = self.config
        if self.source is not None:
            device = {name: getattr(config, name) for name in ("device", "backend", "threads")}
            config = transfer_config(self.source, self.folder, **{**self.overrides, **device})
        result: Result = train(config, self.folder, progress=False)
        return "timed out" if result.timed_out else "finished" if result.finished else "interrupted"

    def checkpoint(self) -> Any:
        """What submitit puts into the queue again where a cluster takes the machine away: the same, which goes on."""
        return DelayedSubmission(self)


# File -> cells


def read(path: str | Path, out: str | Path, **values: Any) -> list[Cell]:
    """The runs that an experiment's file names, sources of transfers first; nothing is written.

    Args:
        path: the file.
        out: folder that the runs' folders lie in.
        values: configuration values, as `make_config` takes them, that override the file's.

    Raises:
        ConfigError: the file cannot be read or asks for something that cannot run; it names the file and what to mend.
    """
    path, out = Path(path), Path(out)
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    try:
        return _cells(content, out, {name.replace("__", "."): value for name, value in values.items()})
    except LspFastError as error:
        raise ConfigError(f"{path}: {error}") from error


def _cells(content: dict[str, Any], out: Path, given: Mapping[str, Any]) -> list[Cell]:
    common = dict(content)
    preset, seeds = common.pop("preset", "paper"), common.pop("seeds", [0])
    tasks, methods = _tables(common, "tasks", "task"), _tables(common, "methods", "algorithm")
    target = common.pop("target", None)
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise ConfigError(f"seeds = {seeds!r}: must be a list of integers")
    if target is not None and not (isinstance(target, dict) and isinstance(target.get("task"), str)):
        raise ConfigError("[target] must name its task")
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
                folder = out / _slug(f"{config.task}-{config.method}-{seed}")
                add(Cell(folder, config))
                if target is not None:
                    names = {f"transfer.{k}" if k in TRANSFER else k: v
                             for k, v in {**flat(target), **flat(on_target), **given}.items()}  # fmt: skip
                    later = replace(config, {"transfer.source": str(folder), **names})
                    name = _slug(f"{later.task}-from-{task['task']}-{later.method}-{seed}")
                    overrides = {k.replace(".", "__"): v for k, v in names.items()}
                    add(Cell(out / name, later, folder, overrides))
    for task in sorted({cell.config.task for cell in cells.values()}):
        if not task.startswith(gym.PREFIX) and task not in envs.task_names():
            envs.make(task)  # says which are near
    return sorted(cells.values(), key=lambda cell: cell.source is not None)


TRANSFER = ("freeze_policy", "relabel")


def _no_steps(values: Mapping[str, Any]) -> dict[str, Any]:
    """A length that is given by hand is the target's."""
    return {name: value for name, value in values.items() if name != "env_steps"}


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


# Cells -> runs


@dataclass
class Report:
    """What became of a sweep's runs."""

    finished: list[Cell] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    """Why, by folder."""
    left: list[Cell] = field(default_factory=list)
    """Not begun, or interrupted."""
    figure: Path | None = None

    def __str__(self) -> str:
        total = len(self.finished) + len(self.failed) + len(self.left)
        lines = [f"{len(self.finished)} of {total} runs are finished"]
        lines += [f"failed   {folder}: {reason}" for folder, reason in self.failed.items()]
        lines += [f"to do    {cell.folder}" for cell in self.left]
        if self.failed or self.left:
            lines.append("the same command runs these alone")
        if self.figure is not None:
            lines.append(f"figure   {self.figure}")
        return "\n".join(lines)


def run(
    cells: Iterable[Cell],
    out: str | Path,
    *,
    jobs: int = 1,
    cluster: str = "local",
    parameters: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Report:
    """Run what is not finished yet, at most `jobs` at a time, each in a process of its own.

    Ctrl-C asks every run to end with a checkpoint. A run that fails keeps none but its own transfers from going on.

    Args:
        cells: from `read`.
        out: folder for logs and figure.
        jobs: on a cluster too.
        cluster: `local` or `slurm`, or another one that submitit knows.
        parameters: submitit's own, such as `slurm_partition` or `timeout_min`.

    Raises:
        ConfigError: submitit does not know the cluster or a parameter.
    """
    out, report = Path(out), Report()
    waiting, running = [], {}
    for cell in cells:
        (report.finished if cell.finished else waiting).append(cell)
    everything = [*report.finished, *waiting]
    executors = Executors(out, jobs, cluster, parameters or {})
    bar = tqdm(total=sum(cell.config.env_steps for cell in everything), unit="step", disable=not progress,
               dynamic_ncols=True, smoothing=0.05, mininterval=1)  # fmt: skip
    stopping = False
    with bar, stop_on_signal() as stop:
        while True:
            for slot, (cell, job, begun) in list(running.items()):
                if job.done():
                    del running[slot]
                    outcome, ok = _outcome(cell, job, out)
                    if ok and cell.finished:
                        report.finished.append(cell)
                    elif ok:
                        report.left.append(cell)
                    else:
                        report.failed[cell.folder] = outcome
                    minutes = (time.monotonic() - begun) / 60
                    bar.write(f"{outcome if ok else 'failed'}  {cell.folder.name}  {minutes:.1f} min")
            # What can no longer begin.
            for cell in [c for c in waiting if c.source in report.failed]:
                waiting.remove(cell)
                report.failed[cell.folder] = f"its source {cell.source} failed"
            if stop.asked and not stopping:
                stopping = True
                bar.write("every run ends with a checkpoint")
                for _, job, _ in running.values():
                    _ask_to_end(job, cluster)
            while not stopping and len(running) < jobs and (cell := _next(waiting, everything)) is not None:
                waiting.remove(cell)
                slot = min(set(range(jobs)) - set(running))
                running[slot] = cell, executors.submit(cell, slot), time.monotonic()
            steps = sum(min(cell.logged_env_steps, cell.config.env_steps) for cell in everything)
            bar.set_postfix(done=len(report.finished), failed=len(report.failed), running=len(running), refresh=False)
            bar.update(steps - bar.n)
            if not running:
                break  # what waits, waits for a run that was interrupted
            time.sleep(POLL_SECONDS)
    report.left += waiting
    if report.finished:
        try:
            report.figure = plot([cell.folder for cell in report.finished], out / FIGURE).path
        except LspFastError as error:  # a run without an evaluation draws nothing; the runs are what counts
            warnings.warn(f"no figure: {error}", stacklevel=2)
    return report


def _next(waiting: list[Cell], everything: list[Cell]) -> Cell | None:
    """The first run whose source, if it has one, is finished."""
    done = {cell.folder for cell in everything if cell not in waiting and cell.finished}
    return next((cell for cell in waiting if cell.source is None or cell.source in done), None)


class Executors:
    """Hands runs to submitit: each has a folder of logs."""

    def __init__(self, out: Path, jobs: int, cluster: str, parameters: Mapping[str, Any]) -> None:
        self.out, self.cluster = out, cluster
        self.parameters = {"timeout_min": MINUTES.get(cluster, 60 * 24), **parameters}
        self.threads = max(1, machine.cores() // jobs) if cluster == "local" else 0
        self._executor(out / LOGS)  # so that a mistake shows before anything is begun

    def submit(self, cell: Cell, slot: int) -> Any:
        """Begin a run. Where several share a machine, each takes its share of the processors, and the next GPU."""
        if self.threads and not cell.config.threads:
            cell = dataclasses.replace(cell, config=replace(cell.config, {"threads": self.threads}))
        executor = self._executor(self.out / LOGS / cell.folder.name)
        if self.cluster == "local" and (gpus := _gpus()):
            executor.update_parameters(gpus_per_node=1, local_visible_gpus=(slot % gpus,))
        # The process that watches over a run must outlive a Ctrl-C and the end of the terminal, as this one does.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
        try:
            return executor.submit(cell)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _executor(self, folder: Path) -> Any:
        try:
            executor = submitit.AutoExecutor(folder, cluster=self.cluster)
            executor.update_parameters(name="lsp-fast", **self.parameters)
        except (ValueError, RuntimeError, NameError) as error:
            raise ConfigError(f"cluster {self.cluster!r} with {self.parameters}: {error}") from error
        return executor


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _outcome(cell: Cell, job: Any, out: Path) -> tuple[str, bool]:
    """What a run returned; or why it failed and where its log lies."""
    logs = out / LOGS / cell.folder.name
    try:
        return job.result(), True
    except Exception as error:  # submitit's own errors, with the run's traceback as their text
        lines = [line for line in str(error).splitlines() if line.strip(" -")]
        return f"{lines[-1].strip() if lines else type(error).__name__} (log in {logs})", False


def _ask_to_end(job: Any, cluster: str) -> None:
    if cluster == "local":
        # submitit's own cancel() kills after a second; this is passed on to the run, which ends with a checkpoint.
        job._process.send_signal(signal.SIGTERM)
    else:
        job.cancel()
