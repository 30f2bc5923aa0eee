"""What people type in their first minutes."""

from __future__ import annotations

import os
from pathlib import Path

from cases.table import Row


def _home(monkeypatch) -> None:
    monkeypatch.setenv("HOME", os.getcwd())


ROWS = [
    Row("no command", "", 2, tells=["train", "evaluate", "doctor", "lists its options"]),
    Row(
        "~ in a path",
        "train {short} --task gym:Pendulum-v1 --logdir ~/run",
        0,
        before=_home,
        leaves=["run"],
        after=lambda: Path("run/config.json").stat(),
    ),
    Row(
        "a prefill to the end",
        "train {short} --task gym:troubles:Plain-v0 --logdir run --collect.prefill 5000",
        0,
        tells=["nothing was learned"],
    ),
    Row(
        "out of time within the prefill",
        "train {short} --task gym:troubles:Plain-v0 --logdir run --collect.prefill 90000 --env-steps 100000 "
        "--max-minutes 0.001",
        0,
        tells=["the same command goes on from there"],
        spares=["nothing was learned"],
    ),
]
