"""Experiments as files: tasks x methods x seeds, run side by side, here or on a cluster (`lsp-fast sweep`).

A file in TOML says what is run; docs/running.md describes it and experiments/ holds the paper's. Every run is an
ordinary one in a folder of its own: a sweep that is begun again goes on with what is missing, and nothing else.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, UncompletedJobError
from tqdm import tqdm

from lsp_fast import machine
from lsp_fast.config import replace
from lsp_fast.errors import ConfigError, LspFastError
from lsp_fast.files import check_writable
from lsp_fast.reports.plot import plot
from lsp_fast.training.cell import Cell, Failed, check_folders, reason
from lsp_fast.training.signals import stop_on_signal
from lsp_fast.training.sweep_file import read

__all__ = ["Cell", "Executors", "Report", "check_folders", "read", "run"]

POLL_SECONDS = 0.5
LOGS, FIGURE = "logs", "learning_curves.png"
MINUTES = {"local": 60 * 24 * 7}
"""A run's limit, for submitit wants one; on a cluster `timeout_min` says another."""


@dataclass
class Report:
    """What became of a sweep's runs."""

    finished: list[Cell] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    """Why, by folder."""
    left: list[Cell] = field(default_factory=list)
    """Not begun, or interrupted."""
    figure: Path | None = None
    warnings: list[str] = field(default_factory=list)
    """Of the figure: what was left out, or what a mean over seeds is not; or why there is none."""

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
        ConfigError: submitit does not know the cluster or a parameter, or a folder holds a run with other values. No
            run has begun then.
        OSError: `out` cannot be written to.
    """
    out, report = Path(out), Report()
    cells, waiting, running = list(cells), [], {}
    check_folders(cells)
    check_writable(out)
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
                    outcome = _outcome(job, stopping)
                    if isinstance(outcome, Failed):
                        report.failed[cell.folder] = f"{outcome.reason} (log in {out / LOGS / cell.folder.name})"
                    elif cell.finished:
                        report.finished.append(cell)
                    else:
                        report.left.append(cell)
                    told = f"failed: {outcome.reason}" if isinstance(outcome, Failed) else outcome
                    bar.write(f"{cell.folder.name}  {(time.monotonic() - begun) / 60:.1f} min  {told}")
            # What can no longer begin.
            for cell in [c for c in waiting if c.source in report.failed]:
                waiting.remove(cell)
                report.failed[cell.folder] = f"its source {cell.source} failed"
            if stop.asked and not stopping:
                stopping = True
                bar.write("every run ends with a checkpoint")
                for _, job, _ in running.values():
                    _ask_to_end(job, cluster)
            while not stopping and len(running) < jobs and (cell := _next(waiting, report)) is not None:
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
            drawn = plot([cell.folder for cell in report.finished], out / FIGURE)
            report.figure, report.warnings = drawn.path, drawn.warnings
        except LspFastError as error:  # a run without an evaluation draws nothing; the runs are what counts
            report.warnings = [f"no figure: {error}"]
    return report


def _next(waiting: list[Cell], report: Report) -> Cell | None:
    """The first run whose source, if it has one, is finished."""
    done = {cell.folder for cell in report.finished}
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


def _outcome(job: Any, stopping: bool) -> str | Failed:
    """What a run returned; of one that could not even return, what can be known."""
    try:
        return job.result()
    except FailedJobError as error:  # outside of what the run itself could catch
        lines = [line.strip() for line in str(error).splitlines() if line and not line[0].isspace()]
        trace = [line for line in lines if line.strip("-") and not line.startswith(("Job (", "You can check"))]
        return Failed(trace[-1] if trace else reason(error))
    except UncompletedJobError:
        if stopping:
            return "interrupted"  # before it could listen to the signal
        return Failed("its process ended without a result; it was killed, perhaps as memory ran out")
    except Exception as error:
        return Failed(reason(error))


def _ask_to_end(job: Any, cluster: str) -> None:
    if cluster != "local":
        job.cancel()
    elif not job.done():
        # submitit's own cancel() kills after a second; this is passed on to the run, which ends with a checkpoint. A
        # local job's id is its process's.
        os.kill(int(job.job_id), signal.SIGTERM)
