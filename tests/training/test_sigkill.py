"""A run that is killed with SIGKILL, at any moment, ends as an undisturbed one (SPEC section 1)."""

import os
import signal
import sys
import threading

import numpy as np
import pytest
import torch
from several_processes import CONTEXT, begin
from tqdm import tqdm

from lsp_fast.config import make_config
from lsp_fast.storage import checkpoint
from lsp_fast.storage.metrics import read_rows

TIMED = ("seconds", "updates_per_second")
KILLS = 20


def config():
    return make_config(
        "smoke",
        device="cpu",
        task="gym:Pendulum-v1",  # episodes of 200 steps: several end between two checkpoints, many within the run
        env_steps=2000,
        collect__num_envs=2,
        collect__prefill=400,
        train__checkpoint_every=60,
        train__log_every=70,
        train__eval_every=500,
    )


def run(folder, kill_at_event=None, delay=0.0, kill_in_checkpoint=None):
    """Train; die at the n-th operation on a file of the run or some seconds after it, or in the middle of a checkpoint.

    Not after some seconds from the start: on a fast machine a run would end before.
    """
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that a killed process leaves behind
    from lsp_fast import files
    from lsp_fast.training.loop import train

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    if kill_at_event is not None:
        left = kill_at_event

        def hook(event, arguments):
            nonlocal left
            if event in ("open", "os.rename", "os.remove", "os.truncate") and str(folder) in str(arguments[0]):
                left -= 1
                if left == 0 and delay:
                    signal.setitimer(signal.ITIMER_REAL, delay)  # its default action kills, no handler of ours runs
                elif left == 0:
                    die()

        sys.addaudithook(hook)
    if kill_in_checkpoint is not None:
        number, share = kill_in_checkpoint
        whole, seen = files.write_bytes, 0

        def half(path, data):
            nonlocal seen
            seen += path.suffix == ".pt"
            if path.suffix == ".pt" and seen == number:
                with path.with_name(path.name + files.PART).open("wb") as file:
                    file.write(data[: int(share * len(data))])
                die()
            whole(path, data)

        files.write_bytes = half
    train(config(), folder, progress=False)


def start(folder, **kill):
    process = CONTEXT.Process(target=run, args=(folder,), kwargs=kill)
    begin(process)
    process.join()
    return process.exitcode


def told(folder):
    """The metrics of a run, but for what the clock says."""
    rows = read_rows(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disable")  # before the server imports dm_control
    assert start(tmp_path / "whole") == 0
    rng = np.random.default_rng(0)
    killed, exits = tmp_path / "killed", []
    for number in range(KILLS):
        if number % 4 == 0:
            kill = {"kill_in_checkpoint": (int(rng.integers(1, 4)), float(rng.uniform()))}
        else:
            kill = {"kill_at_event": int(rng.integers(1, 70)), "delay": float(rng.uniform(0, 0.05)) * (number % 2)}
        exits.append(start(killed, **kill))
    # Each was killed, none was quicker than that: the run's end came with the last start.
    assert set(exits) == {-signal.SIGKILL, -signal.SIGALRM}, exits
    assert start(killed) == 0
    assert told(killed) == told(tmp_path / "whole")
    assert (killed / "scores.json").read_text() == (tmp_path / "whole" / "scores.json").read_text()
    a, b = (checkpoint.load_latest(folder / "checkpoints") for folder in (killed, tmp_path / "whole"))
    assert a["env_steps"] == b["env_steps"] and a["replay"] == b["replay"]
    assert all(torch.equal(a["agent"]["modules"][name], value) for name, value in b["agent"]["modules"].items())
    for name in os.listdir(tmp_path / "whole" / "replay"):
        assert (killed / "replay" / name).read_bytes() == (tmp_path / "whole" / "replay" / name).read_bytes()
    assert not list(killed.rglob("*.part"))
