"""Machines as people have them, and what a newcomer types first."""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Callable
from pathlib import Path

from cases.table import Row

from lsp_fast import machine

NOTEBOOK = "module://matplotlib_inline.backend_inline"
TRAIN = "train {short} --task gym:troubles:Plain-v0 --logdir "


def _set(**variables: str) -> Callable:
    return lambda monkeypatch: [monkeypatch.setenv(*pair) for pair in variables.items()]


def _no_home(monkeypatch) -> None:
    def unknown(uid: int):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def _tensorboard_fails(monkeypatch) -> None:
    from torch.utils.tensorboard import writer

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer, "SummaryWriter", full)


def _scores(monkeypatch) -> None:
    scores = '[{"task": "walker_walk", "method": "lsp", "seed": 0, "xs": [1, 2], "ys": [3.0, 4.0]}]'
    Path("ours.json").write_text(scores)
    monkeypatch.setenv("MPLBACKEND", NOTEBOOK)
    monkeypatch.setenv("MPLCONFIGDIR", "/dev/null/x")


NOWHERE = {"NUMBA_CACHE_DIR": "/dev/null/x", "MPLCONFIGDIR": "/dev/null/x", "XDG_CACHE_HOME": "/dev/null/x"}

ROWS = [
    # What a notebook or a cluster has set.
    Row("a notebook's MPLBACKEND, no cache, and what draws a run's curve", TRAIN + "run", 0, alone=True,
        before=_set(HOME="/dev/null", MPLBACKEND=NOTEBOOK, **NOWHERE), tells=["run/learning_curve.png"],
        spares=["Traceback", "matplotlib", "Matplotlib", "mkdir"], leaves=["run"]),
    Row("a notebook's MPLBACKEND and plot", "plot ours.json --out x.png", 0, alone=True, before=_scores,
        spares=["Traceback", "Matplotlib", "mkdir"], leaves=["x.png"]),
    # Threads.
    Row("more threads than any machine has", TRAIN + "run --threads 100000", 2, leaves=(),
        tells=["lsp-fast: threads = 100000: this machine has", "at most", "0 for as many as fit"]),
    Row("fewer threads than none", TRAIN + "run --threads -1", 2, tells=["threads = -1"], leaves=()),
    *(
        Row(f"{name}={value}", "plot nowhere", 2, before=_set(**{name: value}),
            tells=[f"warning: {name}={value} is ignored: it must lie in 1 .. {machine.most_threads()}"])
        for name, value in (("OMP_NUM_THREADS", "0"), ("OMP_NUM_THREADS", "2,many"), ("MKL_NUM_THREADS", "100000"),
                            ("NUMBA_NUM_THREADS", "nonsense"))
    ),
    Row("OMP_NUM_THREADS a level", "plot nowhere", 2, before=_set(OMP_NUM_THREADS="2, 1"), spares=["ignored"]),
    Row("variables that end numba and PyTorch", TRAIN + "run", 0, alone=True, slow=True, leaves=["run"],
        before=_set(NUMBA_NUM_THREADS="0", OMP_NUM_THREADS="nonsense"),
        tells=["NUMBA_NUM_THREADS=0 is ignored"], spares=["Traceback", "libgomp"]),
    # Homes and folders.
    Row("no home, and ~ in a path", TRAIN + "~/run", 2, before=_no_home, leaves=(),
        tells=["lsp-fast: ~ cannot be replaced", "name the whole path"]),
    Row("no home, and none needed", TRAIN + "run", 0, before=_no_home, leaves=["run"]),
    Row("a folder below a file", TRAIN + "/dev/null/run", 2, leaves=(), tells=["/dev/null/run", "--logdir"]),
    Row("a file where the run should be", TRAIN + "/dev/null", 2, leaves=(), tells=["/dev/null", "--logdir"]),
    Row("a file system without room", TRAIN + "/proc/run", 2, leaves=(), tells=["/proc/run", "--logdir"]),
    Row("TensorBoard's events cannot be written", TRAIN + "run", 0, before=_tensorboard_fails, leaves=["run"],
        tells=["warning: --log tensorboard is left out, and the run goes on", "No space left on device", "return"]),
    Row("a figure below a file", "plot ours.json --out /dev/null/x.png", 2, before=_scores, leaves=(),
        tells=["/dev/null/x.png"]),
    # First minutes.
    Row("a command with a slip", "trian", 2, tells=["lsp-fast: no command 'trian'; did you mean train?"]),
    Row("a command that is far from any", "zzz", 2, tells=["no command 'zzz'; there are train, transfer"]),
    Row("which version", "--version", 0, tells=["lsp-fast 0."]),
    Row("help of no command", "--help", 0, tells=["--version", "lists its options"]),
]  # fmt: skip
