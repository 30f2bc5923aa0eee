"""Runs as jobs in Slurm's queue. What became of one is asked of `squeue`, which needs no accounting.

A job may come back: Slurm queues it again where its node is taken away or dies, and it does so itself where its time is
over. So a run has ended when the queue says so, and a result that is not final says nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.core.utils import JobPaths, pickle_load

from lsp_fast.errors import LspFastError
from lsp_fast.sweeps.cell import Cell, Failed
from lsp_fast.sweeps.jobs import Again, Executors, Job, no_result, trace_end
from lsp_fast.training.signals import Stop

ASK_SECONDS = 10
"""Between two looks at the queue: a look is one call, for all jobs."""
GRACE_SECONDS = 20
"""That a result may take to appear on a shared file system, and a job that was taken away to be back in the queue."""
COMMAND_SECONDS = 60
FORMAT = "JobArrayID:|,State:|,RestartCnt:|,Reason:|,Command:"
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
FOR_GOOD = {"CANCELLED", "COMPLETED", "FAILED"}
"""Those from which Slurm itself takes no job back into the queue."""
GONE = "GONE"
"""Of a job that Slurm has forgotten, some minutes after its end."""
TAKEN_AWAY = {
    "PREEMPTED": "the cluster took its node away",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node failed",
    "REVOKED": "the cluster took it away",
}
NOT_FINAL = ("interrupted", "preempted")
PASSING = {"None", "Priority", "Resources", "BeginTime", "Cleaning", "JobArrayTaskLimit", "Prolog"}
"""Reasons to wait that need nobody's help."""


@dataclass(frozen=True)
class Line:
    """A job as `squeue` shows it."""

    state: str
    reason: str = "None"
    restarts: int = 0
    script: Path = Path()


class Queue:
    """What `squeue` said last of this user's jobs."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self.asked = float("-inf")
        """When; in seconds of the monotonic clock."""
        self.silent = ""
        """Why there was no answer the last time."""

    def line(self, job_id: str) -> Line:
        """A job, at most some seconds ago."""
        self.look()
        return self._lines.get(job_id, Line(GONE))

    @property
    def alive(self) -> dict[str, Line]:
        """Jobs that wait or run, by id."""
        self.look()
        return {job_id: line for job_id, line in self._lines.items() if line.state not in ENDED}

    def look(self, seconds: float | None = None) -> None:
        """Ask, unless it is less than so many seconds ago. Where Slurm does not answer the jobs stay as they were."""
        if time.monotonic() - self.asked < (ASK_SECONDS if seconds is None else seconds):
            return
        user = str(os.getuid())
        told = command("squeue", "--noheader", "--states=all", f"--user={user}", f"--Format={FORMAT}")
        self.asked = time.monotonic()
        self.silent = "" if told.returncode == 0 else (told.stderr.strip().splitlines() or ["no answer"])[-1]
        if not self.silent:
            parts = [line.split("|", 4) for line in told.stdout.splitlines()]
            self._lines = {p[0]: Line(p[1], p[3], int(p[2]), Path(p[4])) for p in parts if len(p) == 5}

    def add(self, job_id: str) -> None:
        """A job that was submitted after the last look."""
        self._lines[job_id] = Line("PENDING")


class SlurmJob:
    """A run in the queue.

    Args:
        folder: of its logs.
    """

    def __init__(self, queue: Queue, job_id: str, cell: Cell, folder: Path) -> None:
        self._queue, self.id, self._cell = queue, job_id, cell
        self._paths = JobPaths(folder, job_id)
        self._steps = cell.env_steps
        self._ended_at: float | None = None
        self._asked_to_end: float | None = None
        self._hurried = 0

    def outcome(self, stopping: bool) -> str | Failed | Again | None:
        """A final result counts at once; without one the queue says whether there will be one."""
        told = self._result()
        if told is not None and told not in NOT_FINAL:
            return told
        state = self._queue.line(self.id).state
        if state not in ENDED | {GONE}:
            self._ended_at = None
            self._hurry()
            return None
        if state == "CANCELLED":
            return "interrupted" if stopping else "cancelled"
        self._ended_at = self._ended_at or time.monotonic()
        if not (stopping and state in FOR_GOOD) and time.monotonic() - self._ended_at < GRACE_SECONDS:
            return None
        return "interrupted" if stopping else self._unfinished(state, told)

    def _unfinished(self, state: str, told: str | None) -> str | Failed | Again:
        if state in TAKEN_AWAY:
            return Again(TAKEN_AWAY[state])
        if told is not None:
            return Again("the cluster asked it to end") if told == "preempted" else told
        if state == "TIMEOUT":
            if self._cell.env_steps > self._steps:
                return Again("its time was over")
            return Failed("its time was over before it had a checkpoint; ask for more with --submitit timeout_min=...")
        if state == "OUT_OF_MEMORY":
            return Failed("its memory was not enough; ask for more with --submitit mem_gb=...")
        return no_result(self._paths.folder, f"Slurm says {state}")

    def _result(self) -> Any:
        """What the run returned, this time or before it was queued again; None before that."""
        try:
            how, told = pickle_load(self._paths.result_pickle)
        except (OSError, EOFError):
            return None
        return told if how == "success" else Failed(trace_end(told) or "it failed without a reason")

    def _hurry(self) -> None:
        """Slurm lets a job that is queued again wait two minutes. One that was asked to end and did may begin at once.

        Not so one whose node failed, which left no answer: the controller of Slurm 22.05 breaks where such a job may
        begin while its node is away.
        """
        line = self._queue.line(self.id)
        if line.state != "PENDING" or line.reason != "BeginTime" or not line.restarts or self._result() is None:
            return
        answered = self._paths.result_pickle.stat().st_mtime_ns
        if answered != self._hurried:
            self._hurried = answered
            command("scontrol", "update", f"JobId={self.id}", "StartTime=now")

    def ask_to_end(self) -> None:
        """One that waits leaves the queue. One that runs gets a signal, and as long as it needs for its checkpoint.

        One that has only just begun does not listen yet, and one that is preempted just now comes back: so it is asked
        again after every look at the queue.
        """
        self._queue.look(ASK_SECONDS / 5)
        if self._asked_to_end == self._queue.asked:
            return
        self._asked_to_end = self._queue.asked
        state = self._queue.line(self.id).state
        if state == "RUNNING":
            command("scancel", f"--signal={signal.SIGTERM.name[3:]}", self.id)
        elif state not in FOR_GOOD | {GONE, "COMPLETING"}:
            command("scancel", self.id)

    @property
    def waits(self) -> bool:
        """Whether it is still to begin."""
        return self._queue.line(self.id).state == "PENDING"

    def note(self) -> str | None:
        """Why it waits, if that is not only for its turn."""
        if self._queue.silent:
            return f"Slurm does not answer: {self._queue.silent}"
        line = self._queue.line(self.id)
        if line.state != "PENDING":
            return None
        if line.reason not in PASSING:
            return f"waits in the queue: {line.reason}"
        return "was put into the queue again, and goes on from its checkpoint" if line.restarts else None


class Slurm(Executors):
    """Hands runs to Slurm's queue, and finds there what was handed to it before."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._queue = Queue()

    def tasks(self, cell: Cell) -> int:
        """One for each process that trains the run."""
        return cell.config.processes

    def begun(self, cells: Iterable[Cell]) -> list[tuple[Cell, Job]]:
        """A job's script lies in its run's folder of logs.

        Raises:
            LspFastError: Slurm does not say what is in its queue; a run might be begun twice.
        """
        jobs = {line.script.parent.resolve(): job_id for job_id, line in self._queue.alive.items()}
        if self._queue.silent:
            raise LspFastError(f"Slurm does not answer: {self._queue.silent}; try again when it does")
        found = [(cell, self.logs(cell).resolve()) for cell in cells]
        return [(cell, SlurmJob(self._queue, jobs[logs], cell, logs)) for cell, logs in found if logs in jobs]

    def outlive(self, stop: Stop) -> bool:
        """Only Ctrl-C ends the runs: with the terminal alone gone they go on, and the same command finds them."""
        return signal.SIGINT not in stop.signals

    def _job(self, job: Any, cell: Cell) -> Job:
        self._queue.add(job.job_id)
        return SlurmJob(self._queue, job.job_id, cell, job.paths.folder)

    def _executor(self, folder: Path, tasks: int = 1) -> Any:
        executor = super()._executor(folder, tasks)
        # Not every cluster queues a job again that does not ask for it.
        more = self.parameters.get("slurm_additional_parameters", {})
        executor.update_parameters(slurm_additional_parameters={"requeue": True, **more})
        return executor


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """One of Slurm's commands, which may take long or fail: a cluster's controller is sometimes away."""
    try:
        return subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=COMMAND_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 1, "", f"{words[0]} takes longer than {COMMAND_SECONDS} s")
    except OSError as error:
        return subprocess.CompletedProcess(words, 1, "", f"{words[0]}: {error.strerror}")
