"""Processes that train together, for tests: begun as torchrun begins them, and patched in one of them."""

import io
import multiprocessing
import os
import signal
import socket
import threading
from unittest.mock import patch

import torch
from tqdm import tqdm

from lsp_fast import processes
from lsp_fast.config import make_config
from lsp_fast.errors import LspFastError
from lsp_fast.storage.metrics import read_rows
from lsp_fast.training.collector import Collector
from lsp_fast.training.loop import train

# A server that has imported everything forks the processes: importing takes longer than they do.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["lsp_fast.training.loop", "dm_control.suite", "torch.utils.tensorboard", "agents.test_update"]
)
TIMED = ("seconds", "updates_per_second")
TASK = "gym:Pendulum-v1"  # episodes of 200 steps


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def one(rank, count, port, answers, function, given):
    """A process as torchrun starts it."""
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())
    try:
        content = io.BytesIO()
        torch.save(function(*given), content)  # in the queue itself: tensors would be fetched from who has ended
        answers.put((rank, content.getvalue()))
    except LspFastError as error:
        answers.put((rank, (type(error).__name__, str(error), processes.tells())))


def begin(process):
    """Start it. The server that forks it must not load what draws: drivers do not live through that."""
    with patch.dict(os.environ, {"MUJOCO_GL": "disable"}):
        process.start()


def start(function, *given, count=2):
    """So many processes that call a function; and where their answers come."""
    answers, port = CONTEXT.Queue(), free_port()
    begun = [CONTEXT.Process(target=one, args=(r, count, port, answers, function, given)) for r in range(count)]
    for process in begun:
        begin(process)
    return begun, answers


def together_call(function, *given, count=2):
    """What each of so many processes returns, in their order."""
    begun, answers = start(function, *given, count=count)
    found = {}
    for _ in begun:
        rank, said = answers.get(timeout=90)
        found[rank] = torch.load(io.BytesIO(said), weights_only=False) if isinstance(said, bytes) else said
    for process in begun:
        process.join(30)
        assert process.exitcode == 0
    return [found[rank] for rank in range(count)]


def config(algorithm="lsp", **overrides):
    values = {
        "device": "cpu",
        "task": TASK,
        "processes": 2,
        "collect__num_envs": 2,
        "env_steps": 1100,
        "collect__prefill": 600,
        "train__checkpoint_every": 300,
        "train__eval_every": 500,
        "process_timeout": 30.0,
    }
    return make_config("smoke", algorithm, **{**values, **overrides})


def trained(c, folder, until=None):
    """Train; until so many environment steps, and then a signal reaches the second process."""
    if until is not None:
        in_the_second(until, lambda collector: os.kill(os.getpid(), signal.SIGTERM))
    result = train(c, folder, progress=False)
    return result.env_steps, result.updates, result.finished, result.timed_out


def in_the_second(env_steps, happens):
    """Have something happen in the second process, in every step from so many on."""
    if processes.invited_rank() != 1:
        return
    collect = Collector.collect

    def watched(self, *given):
        if self.env_steps >= env_steps:
            happens(self)
        collect(self, *given)

    Collector.collect = watched


def comparable(folder):
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_rows(folder / "metrics.jsonl")]


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
