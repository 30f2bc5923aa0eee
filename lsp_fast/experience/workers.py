"""Environments in processes of their own, for those that are slow: each behaves as it does in this one.

Not gymnasium's `AsyncVectorEnv`: that makes an environment here, too, has a process for each, merges what they tell,
and does not say which one died. Here every environment stays one, and the driver's seeds and checks hold as they are.
"""

from __future__ import annotations

import builtins
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import warnings
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper

from lsp_fast.envs.answers import Elsewhere
from lsp_fast.envs.gym import PREFIX
from lsp_fast.errors import LspFastError
from lsp_fast.experience.serve import GRACE

ONE_THREAD = {
    **dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
    ),
    "LP_NUM_THREADS": "0",  # Mesa's, that draw where no GPU does, beside the one that asks
}
"""So that as many processes as cores do not wait for each other."""


class Workers:
    """Processes that hold environments, each an equal share; closed, or when this process ends, they end.

    They are started anew rather than forked: nothing of this process is inherited, no CUDA context and no lock.

    Args:
        count: of processes, at least 1.
        task, options: of `lsp_fast.envs.make`.

    Raises:
        LspFastError: a `gym:` task that was registered here and cannot be taken there.
    """

    def __init__(self, count: int, task: str, **options: Any) -> None:
        self.count = count
        self._options = {"registered": _registered(task), "task": task, **options}
        self._made = 0
        self._processes = [_Process() for _ in range(count)]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The processes' numbers."""
        return [process.pid for process in self._processes]

    def make(self) -> WorkerEnv:
        """The next environment, in the next process in turn.

        Raises:
            LspFastError: as of `lsp_fast.envs.make`, or the process was lost.
        """
        number = self._made
        self._made += 1
        process = self._processes[number % self.count]
        try:
            return WorkerEnv(process, number, process.answer(process.ask(number, "make", self._options)))
        except Elsewhere as error:
            raise LspFastError(f"{self._options['task']} {error} while it was made") from error

    def close(self) -> None:
        """End all processes; environments that are still open are closed there."""
        for process in self._processes:
            process.hang_up()
        for process in self._processes:
            process.end()


class WorkerEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """An environment in another process: its spaces, its episodes, and of its `info` what a driver reads.

    `step` comes in the three parts that `lsp_fast.experience.driver.InParts` describes: between the first and the third
    environments of several processes step at the same time.
    """

    releases_gil: bool = True
    elsewhere: bool = True
    """Threads here would only wait."""

    def __init__(self, process: _Process, number: int, attributes: dict[str, Any]) -> None:
        self._process, self._number, self._ticket = process, number, 0
        self._open = True
        for name, value in attributes.items():  # as they are there; what is absent there is absent here
            setattr(self, name, value)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        return self._process.answer(self._process.ask(self._number, "reset", {"seed": seed, "options": options}))

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.begin(action)
        return self.finish()

    def begin(self, action: np.ndarray) -> None:
        """The first part of `step`."""
        self._ticket = self._process.ask(self._number, "step", {"action": action})

    def run(self) -> None:
        """The second part: all steps begun in one process are sent together."""
        self._process.send()

    def finish(self) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The third part: wait for what `step` returns there, and raise what it raises."""
        return self._process.answer(self._ticket)

    def close(self) -> None:
        # What is at something else closes its environments when it is hung up on.
        if self._open and not self._process.busy and not self._process.lost:
            self._open = False
            self._process.answer(self._process.ask(self._number, "close", {}))


class _Process:
    """One process, and what was asked of it."""

    def __init__(self) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        code = (
            f"import sys; sys.path[:] = {list(map(str, sys.path))!r}; "
            f"from lsp_fast.experience.serve import serve; serve({theirs.fileno()})"
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **ONE_THREAD},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C at a terminal is for the trainer
            )
        self.pid = self._process.pid
        self.lost: Elsewhere | None = None
        self._asked = self._received = 0
        self._queue: list[tuple[Any, ...]] = []
        self._answers: dict[int, tuple[Any, ...]] = {}

    @property
    def busy(self) -> bool:
        """Whether an answer is still to come."""
        return self._received < self._asked

    def ask(self, number: int, call: str, given: dict[str, Any]) -> int:
        """Queue a call of an environment's. Returns its ticket."""
        self._asked += 1
        self._queue.append((self._asked, number, call, given))
        return self._asked

    def send(self) -> None:
        """What is in the queue, in one message: the process may be busy, and answers nobody reads yet fill its pipe."""
        if self.lost is not None:
            raise self.lost
        requests, self._queue = self._queue, []
        if requests:
            try:
                self._connection.send(requests)
            except OSError:
                raise self._lose() from None

    def answer(self, ticket: int) -> Any:
        """Wait for what was asked under that ticket.

        Raises:
            LspFastError: it did, there.
            Elsewhere: anything else did, or the process is gone.
        """
        self.send()
        while ticket not in self._answers:
            try:
                came, *answer = self._connection.recv()
            except (EOFError, OSError):
                raise self._lose() from None
            except BaseException:  # Ctrl-C: what comes next may begin in the middle of an answer
                self.lost = Elsewhere(f"was left by its trainer in process {self.pid}")
                self.hang_up()
                raise
            self._received += 1
            self._answers[came] = tuple(answer)
        succeeded, gave, said = self._answers.pop(ticket)
        # Answers to calls of a step that another environment has failed are not asked for.
        self._answers = {later: answer for later, answer in self._answers.items() if later > ticket}
        for message, category in said:
            warnings.warn(message, getattr(builtins, category, UserWarning), stacklevel=2)
        if succeeded:
            return gave
        ours, message, trace = gave
        error = LspFastError(message) if ours else Elsewhere(message)
        error.add_note(f"In process {self.pid}:\n{trace}")
        raise error

    def hang_up(self) -> None:
        """Tell the process to end."""
        self._connection.close()

    def end(self) -> None:
        """Wait for its end."""
        try:
            self._process.wait(2 * GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _lose(self) -> Elsewhere:
        """The process is gone: how it ended."""
        self.hang_up()
        self.end()
        status = self._process.returncode
        how = f"exited with status {status}" if status >= 0 else f"was killed by {signal.Signals(-status).name}"
        hint = " (a system that is out of memory does so)" if status == -signal.SIGKILL else ""
        self.lost = Elsewhere(f"lost its process {self.pid}, which {how}{hint},")
        return self.lost


def _registered(task: str) -> bytes | None:
    """The registry's entry of a `gym:` task, pickled; None where there is none, as of a module that names its own."""
    if not task.startswith(PREFIX) or (spec := gymnasium.registry.get(task.removeprefix(PREFIX))) is None:
        return None
    try:
        return pickle.dumps(CloudpickleWrapper(cast(Any, spec)))
    except Exception as error:  # whatever an object that cannot be pickled says
        raise LspFastError(
            f"{task} cannot be taken to another process: {type(error).__name__}: {error}; register it in a module and "
            f"train on {PREFIX}MODULE:NAME, or set --collect.workers 0"
        ) from error
