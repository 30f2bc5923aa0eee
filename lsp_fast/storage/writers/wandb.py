"""Weights & Biases: `--log wandb`. Its own variables say where to: WANDB_MODE, WANDB_PROJECT, WANDB_API_KEY."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lsp_fast import extras
from lsp_fast.errors import LspFastError
from lsp_fast.media import Video
from lsp_fast.storage.writers.base import LogWriter, Outcome, RunStart, finite

PROJECT = "lsp_fast"
"""Where no other one is named."""
PATIENCE = 60
"""Seconds at the end of a run in which what is left may be uploaded; the rest stays on disk, for `wandb sync`."""


def library() -> Any:
    """The library; what is missing is named with the command that installs it."""
    return extras.load("wandb", "wandb", "--log wandb")


class Wandb(LogWriter):
    """A run there, whose steps are environment steps. Files lie in the run's folder, `wandb/`.

    A resumed run goes on in the same one. A row that it has already is not sent again.
    """

    def __init__(self, start: RunStart) -> None:
        # Its first start puts hooks of its own there and leaves them: a process passes real ones on by pickle.
        hooks = sys.exit, sys.excepthook
        try:
            self._begin(start)
        finally:
            sys.exit, sys.excepthook = hooks

    def _begin(self, start: RunStart) -> None:
        self._wandb = wandb = library()
        known, named = start.recall("wandb_run"), os.environ
        mode = wandb.setup().settings.mode
        offline = mode in ("offline", "dryrun")
        # It would ask for a key at the terminal, and the run wait for the answer.
        if not offline and mode != "disabled" and not wandb.login(prompt=False, verify=False):
            raise LspFastError("there is no API key; type wandb login, or set WANDB_MODE=offline")
        settings: dict[str, Any] = {"console": "off"}
        if "WANDB_FINISH_TIMEOUT" not in named:
            settings["finish_timeout"] = PATIENCE
        self._run = wandb.init(
            id=known or uuid.uuid4().hex[:12],
            resume=None if offline else "allow",
            project=named.get("WANDB_PROJECT", PROJECT),
            name=named.get("WANDB_NAME", start.name),
            group=named.get("WANDB_RUN_GROUP", f"{start.task} {start.method}"),
            config=dict(start.config),
            allow_val_change=True,
            dir=str(start.folder),
            reinit="create_new",  # one that is open in a notebook is not ours
            settings=wandb.Settings(**settings),
        )
        start.remember("wandb_run", self._run.id)
        # Offline nobody says what is there: each start before wrote a file of its own, perhaps until it was killed.
        self._from = 1 + last_step(start.folder / "wandb") if offline else self._run.step
        for row in start.rows:
            self.scalars(row["env_steps"], finite(row))

    def scalars(self, env_steps: int, row: Mapping[str, float]) -> None:
        self._log(env_steps, dict(row))

    def picture(self, env_steps: int, name: str, pixels: np.ndarray) -> None:
        self._log(env_steps, {name: self._wandb.Image(pixels)})

    def video(self, env_steps: int, name: str, video: Video) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.mp4"
            path.write_bytes(video.mp4)
            self._log(env_steps, {name: self._wandb.Video(str(path), format="mp4")})

    def finish(self, outcome: Outcome) -> None:
        self._run.finish(exit_code=1 if outcome == "failed" else 0)

    def _log(self, env_steps: int, values: dict[str, Any]) -> None:
        if env_steps >= self._from:
            self._run.log(values, step=env_steps)


BLOCK, HEADER = 32768, 7
"""Bytes of a .wandb file's blocks, and of what stands before each piece of a record: LevelDB's log format. The file
itself begins with as many."""
WHOLE_OR_LAST = 1, 4
"""Kinds of pieces that end a record."""


def last_step(folder: Path) -> int:
    """The newest step in the files of earlier starts; -1 where there is none."""
    return max((step for path in folder.glob("*run-*/run-*.wandb") for step in _steps(path)), default=-1)


def _steps(path: Path) -> Iterator[int]:
    """Of every row that is whole in a file; one that a kill cut off ends it."""
    from google.protobuf.message import DecodeError

    record: Any = importlib.import_module("wandb.proto.wandb_internal_pb2").Record()
    data, at, pieces = path.read_bytes(), HEADER, b""
    while at + HEADER <= len(data):
        if (left := BLOCK - at % BLOCK) < HEADER:  # too short for a piece
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        at += HEADER + length
        pieces += data[at - length : at]
        if at > len(data) or not kind:
            return
        if kind in WHOLE_OR_LAST:
            try:
                record.ParseFromString(pieces)
            except DecodeError:
                return
            pieces = b""
            if record.WhichOneof("record_type") == "history":
                yield record.history.step.num
