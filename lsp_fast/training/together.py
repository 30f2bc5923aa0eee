"""One run on several processes: this command starts them by torchrun's own agent, and each trains its share.

lsp-fast train --processes 4 ...
torchrun --nnodes 2 --nproc-per-node 4 ... -m lsp_fast.cli train ...
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

import lsp_fast
from lsp_fast import backends, errors, machine, processes
from lsp_fast.config import Config, flat, replace, to_dict
from lsp_fast.errors import ConfigError, LspFastError, ProcessLost
from lsp_fast.noise import stream_seed
from lsp_fast.storage import checkpoint
from lsp_fast.storage.run_folder import RunFolder
from lsp_fast.training.run import Result
from lsp_fast.training.signals import stop_on_signal

SHARED = (
    "collect.num_envs", "collect.workers", "collect.replay_capacity", "train.batch_size", "behavior.plan_states",
    "behavior.starts",
)  # fmt: skip
"""Numbers of the whole run, of which each process has an equal part."""
POLL_SECONDS = 0.5


def invite(config: Config) -> Config:
    """The configuration, with as many processes as torchrun started.

    Raises:
        ConfigError: the configuration names another number.
    """
    started = processes.invited()
    if not started or config.processes == started:
        return config
    if config.processes > 1:
        raise ConfigError(
            f"processes = {config.processes}: torchrun started {started}; leave --processes out, or let it start them"
        )
    return replace(config, {"processes": started})


def share(config: Config) -> Config:
    """What this process does of the run: its part of SHARED, numbers of its own, its GPU.

    The first one has the run's own seed. Numbers that cannot be divided are `check`'s to refuse.
    """
    count, rank = processes.count(), processes.rank()
    if count == 1:
        return config
    whole = flat(to_dict(config))
    values: dict[str, Any] = {name: -(-whole[name] // count) for name in SHARED}
    if rank:
        values["seed"] = stream_seed(config.seed, f"process/{rank}") % 2**31
    number, here = processes.local()
    if backends.device(config.device).type == "cuda":
        values["device"] = f"cuda:{number}"  # `check` lets no other number through
    if not config.threads:
        values["threads"] = max(1, machine.cores() // here)
    return replace(config, values)


def launch(config: Config, logdir: Path, *, progress: bool, profile: bool) -> Result:
    """Start the processes on this machine, and wait for them. Signals are passed on: they end with a checkpoint.

    Raises:
        LspFastError: what one of them raised; or one was killed, and the newest checkpoint is named.
    """
    if backends.device(config.device).type == "cuda" and config.processes > (there := torch.cuda.device_count()):
        raise ConfigError(f"processes = {config.processes}: each takes a GPU, and there are {there}; ask for as many")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = {"config": to_dict(config), "logdir": str(logdir), "progress": progress, "profile": profile}
        failures: list[Exception] = []
        # torchrun's agent would take the signals itself, and lose some, on the main thread.
        arguments = config.processes, json.dumps(given), folder, failures
        agent = threading.Thread(target=_start, args=arguments, daemon=True)
        agent.start()
        try:
            with stop_on_signal() as stop:
                while agent.is_alive():
                    agent.join(POLL_SECONDS)
                    if stop.asked:  # time and again: one that is still starting does not listen yet
                        _signal(folder, signal.SIGTERM)
        except BaseException:
            _signal(folder, signal.SIGKILL)
            raise
        answers = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not answers:
        raise ProcessLost(_lost(failures, logdir))
    # An error before a result; and who lost the others tells only where none of them tells why.
    return from_answer(min(answers, key=lambda answer: ("error" not in answer, answer.get("error") == "ProcessLost")))


def _start(count: int, given: str, folder: Path, failures: list[Exception]) -> None:
    """Run torchrun's agent until the processes have ended. What it logs of a failure is told in a line."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    agent = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
    )
    logger = logging.getLogger("torch.distributed.elastic")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        elastic_launch(agent, sys.executable)("-m", "lsp_fast.training.process", os.getpid(), given, folder)
    except Exception as error:
        failures.append(error)
    finally:
        logger.setLevel(level)


def _signal(folder: Path, number: signal.Signals) -> None:
    """Send all processes a signal that have said which they are."""
    for path in folder.glob("*.pid"):
        with suppress(OSError):
            os.kill(int(path.stem), number)


def agree(config: Config, state: dict[str, Any] | None) -> None:
    """Refuse processes that would not train one agent: each compares what it was given with the first one's.

    Raises:
        ConfigError: it names what differs, and the remedy.
    """
    own = {"lsp_fast": lsp_fast.__version__, "torch": torch.__version__} | flat(to_dict(config))
    own["the checkpoint's environment steps"] = None if state is None else state["env_steps"]
    first, *others = processes.all_gather_object(own)
    for rank, other in enumerate(others, 1):
        if changed := [name for name in first if first[name] != other.get(name)]:
            name = changed[0]
            raise ConfigError(
                f"{name} is {first[name]!r} in the first process and {other.get(name)!r} in process {rank}: give "
                "all the same command, version and folder"
            )


def _lost(failures: list[Exception], logdir: Path) -> str:
    """What became of processes that could not say it themselves."""
    ended = "the processes ended without a word"
    for failure in failures:
        ended = f"the processes could not be started: {errors.first_line(failure)}"
        if hasattr(failure, "get_first_failure"):
            rank, first = failure.get_first_failure()  # pyright: ignore[reportAttributeAccessIssue]
            code = first.exitcode
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            ended = f"process {rank} {how}"
    return f"{ended}; {newest(logdir)}"


def newest(logdir: Path) -> str:
    """Where a run that was lost goes on from."""
    kept = checkpoint.list_checkpoints(RunFolder(logdir).checkpoints)
    if not kept:
        return "there is no checkpoint yet: the same command begins anew"
    return f"the checkpoint {kept[-1]} is whole, and the same command goes on from there"


@contextmanager
def joined(config: Config, folder: RunFolder) -> Iterator[None]:
    """Meet the other processes, and part at the end. Where one is lost, the checkpoint is named that is left."""
    try:
        processes.join(config.process_timeout, cuda=backends.device(config.device).type == "cuda")
        yield
    except ProcessLost as error:
        processes.leave(failed=True)
        raise ProcessLost(f"{error}; {newest(folder.path)}") from error
    except BaseException:
        processes.leave(failed=True)
        raise
    processes.leave()


PATHS = "folder", "checkpoint", "scores", "curve", "trace"
"""Of a result."""


def to_answer(result: Result) -> dict[str, Any]:
    """A result as JSON knows it."""
    values = dataclasses.asdict(result)
    return {**values, **{name: None if values[name] is None else str(values[name]) for name in PATHS}}


def from_answer(answer: dict[str, Any]) -> Result:
    """What a process wrote: its result, or the error that it had."""
    if "error" in answer:
        raise getattr(errors, answer["error"], LspFastError)(answer["message"])
    return Result(**{**answer, **{name: None if answer[name] is None else Path(answer[name]) for name in PATHS}})
