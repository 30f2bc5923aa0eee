"""Runs as jobs of submitit: a process each on this machine, or whatever another of its clusters makes of them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import submitit
from submitit.core.utils import FailedJobError, UncompletedJobError

from lsp_fast import machine
from lsp_fast.config import replace
from lsp_fast.errors import ConfigError, LspFastError
from lsp_fast.sweeps.cell import Cell, Failed, reason
from lsp_fast.training.signals import Stop

LOGS = "logs"
MINUTES = {"local": 60 * 24 * 7}
"""A run's limit, for submitit wants one; on a cluster `timeout_min` says another."""
FULL = 2**20
"""Bytes free on a disk that is full for what a run writes."""
AGAIN_SECONDS = 60
"""After a queue took no more jobs, until it is asked again."""


class NotSubmitted(LspFastError):
    """A run could not be begun."""


@dataclass(frozen=True)
class Again:
    """What became of a job whose run must be begun once more."""

    reason: str


class Job(Protocol):
    """A run that was begun."""

    def outcome(self, stopping: bool) -> str | Failed | Again | None:
        """What became of it; None while it lives. `stopping`: it was asked to end."""

    def ask_to_end(self) -> None:
        """With a checkpoint; it may be asked any number of times."""

    def note(self) -> str | None:
        """What a user should know of it while it lives."""

    @property
    def waits(self) -> bool:
        """Whether it is in a queue and does not run."""
        ...


class LocalJob:
    """A job of submitit's that is not in a queue."""

    def __init__(self, job: Any, cluster: str, out: Path) -> None:
        self._job, self._local, self._out, self._asked = job, cluster == "local", out, False

    def outcome(self, stopping: bool) -> str | Failed | None:
        """What it returned; of one that could not even return, what can be known."""
        if not self._job.done():
            return None
        try:
            return self._job.result()
        except FailedJobError as error:  # outside of what the run itself could catch
            return Failed(trace_end(str(error)) or reason(error))
        except UncompletedJobError:
            if stopping:
                return "interrupted"  # before it could listen to the signal
            return no_result(self._out, "it was killed, perhaps as memory ran out")
        except Exception as error:
            return Failed(reason(error))

    def ask_to_end(self) -> None:
        """On this machine by a signal: submitit's own cancel() kills after a second."""
        if self._asked or self._job.done():
            return
        self._asked = True
        if self._local:
            os.kill(int(self._job.job_id), signal.SIGTERM)  # a local job's id is its process's
        else:
            self._job.cancel()

    def note(self) -> None:
        """Nothing: it runs."""

    waits = False


class Executors:
    """Hands runs to submitit: each has a folder of logs."""

    def __init__(self, out: Path, jobs: int, cluster: str, parameters: Mapping[str, Any]) -> None:
        self.out, self.cluster = out, cluster
        self.parameters = {"name": "lsp-fast", "timeout_min": MINUTES.get(cluster, 60 * 24), **parameters}
        self.threads = max(1, machine.cores() // jobs) if cluster == "local" else 0
        self._executor(out / LOGS)  # so that a mistake shows before anything is begun

    def name(self, cell: Cell) -> str:
        """What a run is called, and its folder of logs: its own folder's name, after that of its trial in a search."""
        return str(cell.folder.relative_to(self.out)) if self.out in cell.folder.parents else cell.folder.name

    def logs(self, cell: Cell) -> Path:
        """Where submitit keeps what a run prints."""
        return self.out / LOGS / self.name(cell)

    def tasks(self, cell: Cell) -> int:
        """Tasks of a run's job; here a run of several processes starts the others itself."""
        return 1

    def begun(self, cells: Iterable[Cell]) -> list[tuple[Cell, Job]]:
        """Of these runs, those that someone has begun before and that still wait or run."""
        return []

    def outlive(self, stop: Stop) -> bool:
        """Whether the runs go on without us after such a signal."""
        return False

    def submit(self, cell: Cell, slot: int) -> Job:
        """Begin a run. Where several share a machine, each takes its share of the processors, and the next GPU
        for each of its processes.

        Raises:
            NotSubmitted: with the reason.
        """
        if self.threads and not cell.config.threads:
            each = max(1, self.threads // cell.config.processes)
            cell = dataclasses.replace(cell, config=replace(cell.config, {"threads": each}))
        executor = self._executor(self.logs(cell), self.tasks(cell))
        if self.cluster == "local" and (gpus := _gpus()):
            count = cell.config.processes
            visible = tuple(dict.fromkeys((slot * count + i) % gpus for i in range(count)))
            executor.update_parameters(gpus_per_node=len(visible), local_visible_gpus=visible)
        return self._job(_submitted(executor, cell), cell)

    def _job(self, job: Any, cell: Cell) -> Job:
        return LocalJob(job, self.cluster, self.out)

    def _executor(self, folder: Path, tasks: int = 1) -> Any:
        try:
            executor = submitit.AutoExecutor(folder, cluster=self.cluster)
            executor.update_parameters(**self.parameters, **({"tasks_per_node": tasks} if tasks > 1 else {}))
        except (ValueError, RuntimeError, NameError, TypeError) as error:
            raise ConfigError(f"cluster {self.cluster!r} with {self.parameters}: {error}") from error
        return executor


class Pool:
    """At most so many runs at a time."""

    def __init__(self, executors: Executors, jobs: int, tell: Any) -> None:
        self._executors, self._jobs, self._tell = executors, jobs, tell
        self._running: dict[int, tuple[Cell, Job, float]] = {}
        self._ending: set[Path] = set()
        self._notes: dict[Path, str | None] = {}
        self._closed_until = 0.0

    @property
    def ending(self) -> bool:
        """Whether a run was asked to end and has not yet."""
        return bool(self._ending)

    @property
    def counts(self) -> dict[str, int]:
        """How many run, and how many wait in a queue if it has any."""
        waits = sum(job.waits for _, job, _ in self._running.values())
        return {"running": len(self._running) - waits, **({"queued": waits} if waits else {})}

    @property
    def cells(self) -> list[Cell]:
        """Those that run, or wait in a queue."""
        return [cell for cell, _, _ in self._running.values()]

    @property
    def free(self) -> bool:
        """Whether one more may begin now."""
        return len(self._running) < self._jobs and time.monotonic() >= self._closed_until

    def take_up(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those of the runs that are in a queue already."""
        found = self._executors.begun(cells)
        for cell, job in found:
            self._tell(f"{self._executors.name(cell)}  is in the queue already")
            self._running[self._slot()] = cell, job, time.monotonic()
        return [cell for cell, _ in found]

    def begin(self, cell: Cell) -> bool:
        """Begin a run; False where a queue takes no more for now.

        Raises:
            NotSubmitted: and none is there whose end could change that.
        """
        slot = self._slot()
        try:
            self._running[slot] = cell, self._executors.submit(cell, slot), time.monotonic()
        except NotSubmitted as error:
            if not self._running:
                raise
            self._closed_until = time.monotonic() + AGAIN_SECONDS
            if str(error) != self._notes.get(cell.folder):
                self._tell(f"{self._executors.name(cell)}  waits here: {error}")
            self._notes[cell.folder] = str(error)
            return False
        return True

    def ended(self) -> Iterator[tuple[Cell, str | Failed | Again]]:
        """Runs that have ended since, and how."""
        for slot, (cell, job, begun) in list(self._running.items()):
            if cell.folder in self._ending:
                job.ask_to_end()
            outcome = job.outcome(cell.folder in self._ending)
            if outcome is None:
                note = job.note()
                if note and note != self._notes.get(cell.folder):
                    self._tell(f"{self._executors.name(cell)}  {note}")
                self._notes[cell.folder] = note
                continue
            del self._running[slot]
            self._ending.discard(cell.folder)
            told = outcome
            if isinstance(outcome, Failed):
                told = f"failed: {outcome.reason}"
                outcome = Failed(f"{outcome.reason} (log in {self._executors.logs(cell)})")
            elif isinstance(outcome, Again):
                told = f"{outcome.reason}; it begins again"
            self._tell(f"{self._executors.name(cell)}  {(time.monotonic() - begun) / 60:.1f} min  {told}")
            yield cell, outcome

    def ask_to_end(self, cells: Iterable[Cell]) -> None:
        """Each with a checkpoint; `ended` hands them out when they have."""
        self._ending |= {cell.folder for cell in cells}

    def _slot(self) -> int:
        return min(set(range(len(self._running) + 1)) - set(self._running))


def _submitted(executor: Any, cell: Cell) -> Any:
    # The process that watches over a run must outlive a Ctrl-C and the end of the terminal, as this one does.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints there what it raises
            return executor.submit(cell)
    except (OSError, UncompletedJobError, RuntimeError) as error:
        lines = str(error).strip().splitlines()
        raise NotSubmitted(f"not submitted: {lines[-1] if lines else type(error).__name__}") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def trace_end(text: str) -> str:
    """The line that says what was raised, of a traceback with more around it; empty where there is none."""
    lines = [line.strip() for line in text.splitlines() if line and not line[0].isspace()]
    trace = [line for line in lines if line.strip("-") and not line.startswith(("Job (", "You can check"))]
    return trace[-1] if trace else ""


def no_result(out: Path, perhaps: str) -> Failed:
    """Why a job left nothing: a disk that is full keeps it from saying so itself."""
    if machine.disk_free(out) < FULL:
        perhaps = f"the disk of {out} is full"
    return Failed(f"its process ended without a result; {perhaps}")
