"""Where a run's numbers go: metrics.jsonl, scores.json, TensorBoard, pictures. Knows neither models nor agents.

Another place is one more `LogWriter` in `RunLogger.writers`.
"""

from __future__ import annotations

import functools
import io
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lsp_fast.files import write_bytes, write_text
from lsp_fast.storage.metrics import read_rows

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class LogWriter:
    """A place for rows and pictures; what it does not keep it lets pass."""

    def write(self, env_steps: int, row: Mapping[str, float]) -> None:
        """Add one row of numbers, which need not be finite."""

    def picture(self, env_steps: int, name: str, pixels: np.ndarray) -> None:
        """Keep a picture, uint8 [height, width, 3]."""

    def sync(self) -> None:
        """Make what came so far durable."""

    def close(self) -> None:
        """Flush and close."""


class JsonLines(LogWriter):
    """metrics.jsonl, one object a row. A value that is not finite is written as null: JSON has no NaN.

    Args:
        path: of the file.
        kept: rows that it begins with.
    """

    def __init__(self, path: Path, kept: Sequence[Mapping[str, Any]]) -> None:
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a")

    def write(self, env_steps: int, row: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"env_steps": env_steps, **{k: _finite(v) for k, v in row.items()}}) + "\n")
        self._file.flush()

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class Scores(LogWriter):
    """scores.json: the evaluations, `xs` (environment steps) and `ys` (mean returns). Without any there is no file.

    Args:
        path: of the file.
        identity: task, method and seed, which the row carries.
        kept: rows of metrics that it begins with.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], kept: Sequence[Mapping[str, Any]]) -> None:
        self._path, self._identity = path, dict(identity)
        evaluations = [row for row in kept if "eval/return" in row]
        self.xs: list[int] = [row["env_steps"] for row in evaluations]
        self.ys = [math.nan if row["eval/return"] is None else float(row["eval/return"]) for row in evaluations]
        self._save()

    def write(self, env_steps: int, row: Mapping[str, float]) -> None:
        if "eval/return" in row:
            self.xs.append(env_steps)
            self.ys.append(row["eval/return"])
            self._save()

    def _save(self) -> None:
        if self.xs:
            row = {**self._identity, "xs": self.xs, "ys": [_finite(y) for y in self.ys]}
            write_text(self._path, json.dumps([row]) + "\n")
        else:
            self._path.unlink(missing_ok=True)


class Pictures(LogWriter):
    """PNG files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def picture(self, env_steps: int, name: str, pixels: np.ndarray) -> None:
        from PIL import Image

        content = io.BytesIO()
        Image.fromarray(pixels).save(content, format="PNG")
        self._folder.mkdir(exist_ok=True)
        write_bytes(self._folder / f"{name}_{env_steps:09d}.png", content.getvalue())


class TensorBoard(LogWriter):
    """Events for TensorBoard.

    Args:
        folder: of the files.
        purge_step: what an earlier start wrote from there on does not count.
    """

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        self._folder, self._purge_step = folder, purge_step

    @functools.cached_property
    def _events(self) -> SummaryWriter:
        """Made with the first row: a start that adds nothing leaves no file."""
        from torch.utils.tensorboard.writer import SummaryWriter

        return SummaryWriter(str(self._folder), purge_step=self._purge_step)

    def write(self, env_steps: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            self._events.add_scalar(name, value, env_steps)

    def picture(self, env_steps: int, name: str, pixels: np.ndarray) -> None:
        self._events.add_image(name, pixels, env_steps, dataformats="HWC")

    def close(self) -> None:
        if "_events" in vars(self):
            self._events.close()


class RunLogger(LogWriter):
    """All the places of a run's numbers.

    Args:
        folder: the run's; made if absent.
        identity: task, method and seed.
        rows: how many there were where a resumed run goes on; those after them are cut.

    Attributes:
        rows: written so far.
        xs, ys: environment steps and mean returns of the evaluations so far.
        writers: every row and picture goes to each of them.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], rows: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        kept = read_rows(path)[:rows]
        if len(kept) < rows:
            warnings.warn(
                f"{path} holds {len(kept)} of the {rows} rows written before the checkpoint; the "
                "others are lost to curves and scores, not to the run",
                stacklevel=2,
            )
        self.rows = len(kept)
        scores = Scores(folder / "scores.json", identity, kept)
        self.xs, self.ys = scores.xs, scores.ys
        purge_step = kept[-1]["env_steps"] + 1 if kept else None
        self.writers: list[LogWriter] = [
            JsonLines(path, kept),
            scores,
            Pictures(folder / "images"),
            TensorBoard(folder, purge_step),
        ]

    def write(self, env_steps: int, row: Mapping[str, float]) -> None:
        self.rows += 1
        for writer in self.writers:
            writer.write(env_steps, row)

    def picture(self, env_steps: int, name: str, pixels: np.ndarray) -> None:
        for writer in self.writers:
            writer.picture(env_steps, name, pixels)

    def sync(self) -> None:
        """Make the rows so far durable: a checkpoint says that they are there."""
        for writer in self.writers:
            writer.sync()

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


class Silent(LogWriter):
    """What a process has that does not log: it keeps nothing."""

    def __init__(self) -> None:
        self.rows = 0
        self.xs: list[int] = []
        self.ys: list[float] = []


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
