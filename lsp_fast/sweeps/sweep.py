"""Experiments as files: tasks x methods x seeds, run side by side, here or on a cluster (`lsp-fast sweep`).

A file in TOML says what is run; docs/running.md describes it and experiments/ holds the paper's. Every run is an
ordinary one in a folder of its own: a sweep that is begun again goes on with what is missing, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lsp_fast.errors import LspFastError
from lsp_fast.files import check_writable
from lsp_fast.reports.plot import plot
from lsp_fast.sweeps.cell import Cell, Failed, check_folders
from lsp_fast.sweeps.jobs import Again, Executors, NotSubmitted, Pool
from lsp_fast.sweeps.slurm import Slurm
from lsp_fast.sweeps.sweep_file import read
from lsp_fast.training.signals import stop_on_signal

__all__ = ["Cell", "Report", "check_folders", "executors", "read", "run"]

POLL_SECONDS = 0.5
FIGURE = "learning_curves.png"


@dataclass
class Report:
    """What became of a sweep's runs."""

    finished: list[Cell] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    """Why, by folder."""
    left: list[Cell] = field(default_factory=list)
    """Not begun, or interrupted."""
    queued: list[Cell] = field(default_factory=list)
    """Still in the cluster's queue, since only this command was ended."""
    figure: Path | None = None
    warnings: list[str] = field(default_factory=list)
    """Of the figure: what was left out, or what a mean over seeds is not; or why there is none."""

    @property
    def status(self) -> int:
        """The command's exit status."""
        return 1 if self.failed else 130 if self.left or self.queued else 0

    def __str__(self) -> str:
        total = len(self.finished) + len(self.failed) + len(self.left) + len(self.queued)
        lines = [f"{len(self.finished)} of {total} runs are finished"]
        lines += [f"failed   {folder}: {reason}" for folder, reason in self.failed.items()]
        lines += [f"to do    {cell.folder}" for cell in self.left]
        lines += [f"queued   {cell.folder}" for cell in self.queued]
        if self.failed or self.left or self.queued:
            lines.append("the same command runs these alone" + ", and finds what is queued" * bool(self.queued))
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
    What is in a cluster's queue already is waited for instead of being begun twice.

    Args:
        cells: from `read`.
        out: folder for logs and figure.
        jobs: on a cluster too; of those that wait in its queue as well.
        cluster: `local` or `slurm`, or another one that submitit knows.
        parameters: submitit's own, such as `slurm_partition` or `timeout_min`.

    Raises:
        ConfigError: submitit does not know the cluster or a parameter, or a folder holds a run with other values. No
            run has begun then.
        OSError: `out` cannot be written to.
    """
    out, report = Path(out), Report()
    cells, waiting = list(cells), []
    check_folders(cells)
    check_writable(out)
    for cell in cells:
        (report.finished if cell.finished else waiting).append(cell)
    everything = [*report.finished, *waiting]
    hands = executors(out, jobs, cluster, parameters or {})
    bar = tqdm(total=sum(cell.config.env_steps for cell in everything), unit="step", disable=not progress,
               dynamic_ncols=True, smoothing=0.05, mininterval=1)  # fmt: skip
    with bar, stop_on_signal() as stop:
        pool = Pool(hands, jobs, bar.write)
        for cell in pool.take_up(waiting):
            waiting.remove(cell)
        while True:
            for cell, outcome in pool.ended():
                if isinstance(outcome, Failed):
                    report.failed[cell.folder] = outcome.reason
                elif isinstance(outcome, Again):
                    waiting.insert(0, cell)
                else:
                    (report.finished if cell.finished else report.left).append(cell)
            # What can no longer begin.
            for cell in [c for c in waiting if c.source in report.failed]:
                waiting.remove(cell)
                report.failed[cell.folder] = f"its source {cell.source} failed"
            if stop.asked:
                if hands.outlive(stop):
                    break
                if pool.cells and not pool.ending:
                    bar.write("every run ends with a checkpoint")
                pool.ask_to_end(pool.cells)
            while not stop.asked and pool.free and (cell := _next(waiting, report)) is not None:
                try:
                    if not pool.begin(cell):
                        break
                except NotSubmitted as error:
                    report.failed[cell.folder] = str(error)
                waiting.remove(cell)
            steps = sum(min(cell.logged_env_steps, cell.config.env_steps) for cell in everything)
            bar.set_postfix({"done": len(report.finished), "failed": len(report.failed), **pool.counts}, refresh=False)
            bar.update(steps - bar.n)
            if not pool.cells and (stop.asked or _next(waiting, report) is None):
                break  # what waits, waits for a run that was interrupted
            time.sleep(POLL_SECONDS)
        report.queued = pool.cells
    report.left += waiting
    if report.finished:
        try:
            drawn = plot([cell.folder for cell in report.finished], out / FIGURE)
            report.figure, report.warnings = drawn.path, drawn.warnings
        # A run without an evaluation draws nothing, and a disk may be full; the runs are what counts.
        except (LspFastError, OSError) as error:
            report.warnings = [f"no figure: {error}"]
    return report


def executors(out: Path, jobs: int, cluster: str, parameters: Mapping[str, Any]) -> Executors:
    """Whoever hands runs to a cluster of this name."""
    return (Slurm if cluster == "slurm" else Executors)(out, jobs, cluster, parameters)


def _next(waiting: list[Cell], report: Report) -> Cell | None:
    """The first run whose source, if it has one, is finished."""
    done = {cell.folder for cell in report.finished}
    return next((cell for cell in waiting if cell.source is None or cell.source in done), None)
