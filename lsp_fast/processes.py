"""The processes that train one agent together: who this one is, and what they tell each other.

`torchrun` starts them and `torch.distributed` carries the messages: gloo between processors, NCCL between GPUs. A
process that nobody started so is alone. Then every function here answers at once, and changes nothing.

All processes must call the same functions in the same order. One that is gone, or does not answer in time, is a
`ProcessLost` in all others.
"""

from __future__ import annotations

import os
import signal
import socket
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from lsp_fast.errors import ProcessLost, first_line

Value = TypeVar("Value")

SIGN_IN_SECONDS = 3.0
"""In which the others sign in once one is missed."""


@dataclass(frozen=True)
class _Group:
    rank: int
    count: int
    seconds: float  # that an answer is waited for
    store: Any
    pids: list[tuple[str, int]]  # host and number, by rank
    cuda: bool
    quiet: warnings.catch_warnings  # what was warned of before


_group: _Group | None = None
_joined = 0
_tells: bool | None = None


def invited() -> int:
    """How many processes `torchrun` started, this one among them; 0: it did not start this one, or no other."""
    named = {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()
    return count if named and (count := int(os.environ["WORLD_SIZE"])) > 1 else 0


def invited_rank() -> int:
    """This process's number among those that torchrun started, before they have met."""
    return int(os.environ.get("RANK", 0)) if invited() else 0


def join(seconds: float, *, cuda: bool = False) -> None:
    """Meet the processes that `torchrun` started beside this one. Those that do not lead keep their warnings, as the
    first one says the same, but those of an episode that is their own.

    Args:
        seconds: that an answer is waited for, later, too.
        cuda: tensors on GPUs are averaged, as well as those on processors.

    Raises:
        ProcessLost: they did not all come.
    """
    global _group, _joined, _tells
    if _group is not None:
        return
    _joined, _tells = _joined + 1, None
    wait = timedelta(seconds=seconds)
    try:
        store, rank, count = next(iter(rendezvous("env://", timeout=wait)))
        store = PrefixStore(f"lsp_fast/{_joined}", store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo", store=store, rank=rank, world_size=count, timeout=wait
        )
    except (RuntimeError, ValueError) as error:
        raise ProcessLost(f"the processes did not meet within {seconds:g} seconds: {first_line(error)}") from error
    pids: list[Any] = [None] * count
    dist.all_gather_object(pids, (socket.gethostname(), os.getpid()))
    _group = _Group(rank, count, seconds, store, pids, cuda, warnings.catch_warnings())
    _group.quiet.__enter__()
    if rank:
        warnings.simplefilter("ignore", UserWarning)
        warnings.filterwarnings("default", ".*did not repeat itself", UserWarning)


def leave(*, failed: bool = False) -> None:
    """Part: this process is alone again. Where it fails, it is decided whether it tells of it."""
    global _group, _tells
    if (group := _group) is None:
        return
    _group = None
    group.quiet.__exit__(None, None, None)
    if failed:
        with suppress(Exception):  # whoever keeps the store may be gone
            own = str(group.rank)
            _tells = group.store.compare_set("told", "", own).decode() == own
    # A graph that holds one of NCCL's messages keeps its group from ending; the process does end.
    if not group.cuda:
        with suppress(RuntimeError):
            dist.destroy_process_group()  # whoever waits for this process notices now


def tells() -> bool:
    """Whether this process tells of its error: of several that fail the first one does, as the others repeat it."""
    return invited_rank() == 0 if _tells is None else _tells


def count() -> int:
    """Processes that train the agent."""
    return 1 if _group is None else _group.count


def rank() -> int:
    """This one's number, from 0."""
    return 0 if _group is None else _group.rank


def leads() -> bool:
    """Whether this process is the one that evaluates, logs and draws."""
    return rank() == 0


def local() -> tuple[int, int]:
    """This one's number on its machine, and how many are there."""
    return (
        (0, 1) if _group is None else (int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    )


def average(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The means over processes of tensors of one dtype and device, through one flat buffer; new ones, unless alone.

    Every process gets the same numbers to the bit.
    """
    if _group is None:
        return list(tensors)
    flat = torch.cat([x.detach().reshape(-1) for x in tensors])
    with _answered():
        dist.all_reduce(flat)
    flat /= _group.count
    return [part.view(x.shape) for part, x in zip(flat.split([x.numel() for x in tensors]), tensors, strict=True)]


def maximum(x: Tensor) -> Tensor:
    """The largest of what all processes have, by element; a new tensor, unless alone."""
    if _group is None:
        return x
    x = x.detach().clone()
    with _answered():
        dist.all_reduce(x, dist.ReduceOp.MAX)
    return x


def broadcast(tensors: Sequence[Tensor]) -> None:
    """Give tensors the first process's numbers, in place."""
    if _group is None:
        return
    for x in tensors:
        with _answered():
            dist.broadcast(x, 0)


def mean_and_variance(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of what all processes saw, of which each saw as much."""
    if _group is None:
        return mean, variance
    [common] = average([mean])
    # Of a mixture: those of its parts, and how far apart these lie.
    [variance] = average([variance + (mean - common) ** 2])
    return common, variance


def pooled(
    counts: Sequence[int], means: Sequence[np.ndarray], stds: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of all rows, of those that each process has; one alone gets its own back.

    Args:
        counts: of rows, by process.
        means, stds: of them, float32 of one shape.
    """
    if len(counts) == 1:
        return means[0], stds[0]
    weights = np.asarray(counts, np.float64) / sum(counts)
    mean = sum(w * np.asarray(m, np.float64) for w, m in zip(weights, means, strict=True))
    parts = zip(weights, means, stds, strict=True)
    variance = sum(w * (np.asarray(s, np.float64) ** 2 + (m - mean) ** 2) for w, m, s in parts)
    return np.asarray(mean, np.float32), np.sqrt(variance).astype(np.float32)


def all_gather(values: Sequence[int]) -> list[list[int]]:
    """What every process says, in their order: the same count of integers from each."""
    own = list(map(int, values))
    if _group is None:
        return [own]
    said = [torch.empty(len(own), dtype=torch.int64) for _ in range(_group.count)]
    with _answered():
        dist.all_gather(said, torch.tensor(own, dtype=torch.int64))
    return [x.tolist() for x in said]


def barrier() -> None:
    """Wait until every process has come here."""
    all_gather([0])


def all_gather_object(value: Value) -> list[Value]:
    """Any plain value from every process, in their order. Slow: for what is rare."""
    if _group is None:
        return [value]
    said: list[Any] = [None] * _group.count
    with _answered():
        dist.all_gather_object(said, value)
    return said


@contextmanager
def _answered() -> Iterator[None]:
    """Turn a silence into the name of whoever is silent."""
    asked = time.monotonic()
    try:
        yield
    except RuntimeError as error:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise  # of the capture itself
        raise ProcessLost(_missed(error, time.monotonic() - asked)) from error


def _missed(error: RuntimeError, waited: float) -> str:
    """Who is gone or silent, in words. One that hangs on this machine is ended, so that nothing waits for it."""
    group = _group
    assert group is not None
    here = socket.gethostname()
    others = [(r, *group.pids[r]) for r in range(group.count) if r != group.rank]
    silent = {r for r, *_ in others}
    ended: list[int] = []
    with suppress(Exception):  # the store may be gone, too
        group.store.set(f"here/{group.rank}", "")
        until = time.monotonic() + SIGN_IN_SECONDS
        while silent and not ended and time.monotonic() < until:
            # Only neighbours notice at first: of those that this one does not see end, nothing can be said yet.
            ended = [r for r, host, pid in others if host == here and not _running(pid)]
            silent = {r for r in silent if not group.store.check([f"here/{r}"])}
            time.sleep(0.05)
    if ended:
        return "; ".join(f"process {r} ({group.pids[r][1]}) has ended" for r in ended)
    told = []
    for r, host, pid in others:
        if r not in silent:
            continue
        if host != here:
            told.append(f"process {r} on {host} is gone or does not answer")
            continue
        told.append(f"process {r} ({pid}) does not answer ({waited:.0f} seconds)")
        if waited >= group.seconds:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    return "; ".join(told) or f"the processes lost each other: {first_line(error)}"


def _running(pid: int) -> bool:
    """Whether there is such a process on this machine that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
