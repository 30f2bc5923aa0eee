"""Where a run's numbers go: metrics.jsonl, TensorBoard events and scores.json. Knows neither models nor agents."""

from __future__ import annotations

import functools
import io
import json
import math
import os
import warnings
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lsp_fast.files import write_bytes, write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class Means:
    """Averages of metrics between two rows of the log; tensors are only read when the row is made."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Take 0-d tensors in without waiting for their device."""
        for name, value in metrics.items():
            self._values[name].append(value.detach())

    def pop(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: torch.stack(values).float().mean().item() for name, values in self._values.items()}
        self._values.clear()
        return means

    def state_dict(self) -> dict[str, Tensor]:
        """What has come since the last row, for a checkpoint."""
        return {name: torch.stack(values).cpu() for name, values in self._values.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state_dict` was taken."""
        self._values = defaultdict(list, {name: list(values.unbind()) for name, values in state.items()})


class RunLogger:
    """Appends rows to metrics.jsonl and TensorBoard, and keeps scores.json.

    Args:
        folder: the run's; made if absent.
        identity: task, method and seed, which a row of scores.json carries.
        rows: how many there were where a resumed run goes on; those after them are cut.

    Attributes:
        rows: written so far.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], rows: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.metrics_path, self.scores_path = folder / "metrics.jsonl", folder / "scores.json"
        self.identity, self.folder = dict(identity), folder
        kept = read_rows(self.metrics_path)[:rows]
        if len(kept) < rows:
            warnings.warn(
                f"{self.metrics_path} holds {len(kept)} of the {rows} rows written before the checkpoint; the "
                "others are lost to curves and scores, not to the run",
                stacklevel=2,
            )
        self.rows = len(kept)
        self._purge_step = kept[-1]["env_steps"] + 1 if kept else None
        write_text(self.metrics_path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = self.metrics_path.open("a")
        evaluations = [row for row in kept if "eval/return" in row]
        self.xs = [row["env_steps"] for row in evaluations]
        self.ys = [math.nan if row["eval/return"] is None else row["eval/return"] for row in evaluations]
        self._write_scores()

    @functools.cached_property
    def _events(self) -> SummaryWriter:
        """Made with the first row: a start that adds nothing leaves no file of events."""
        from torch.utils.tensorboard.writer import SummaryWriter

        return SummaryWriter(str(self.folder), purge_step=self._purge_step)

    def write(self, env_steps: int, row: Mapping[str, float]) -> None:
        """Add one row. A value that is not finite is written as null: JSON has no NaN."""
        self._file.write(json.dumps({"env_steps": env_steps, **{k: _finite(v) for k, v in row.items()}}) + "\n")
        self._file.flush()
        self.rows += 1
        for name, value in row.items():
            self._events.add_scalar(name, value, env_steps)
        if "eval/return" in row:
            self.xs.append(env_steps)
            self.ys.append(row["eval/return"])
            self._write_scores()

    def picture(self, env_steps: int, name: str, pixels: np.ndarray) -> None:
        """Keep a picture, uint8 [height, width, 3], in the folder's images/ and in TensorBoard."""
        from PIL import Image

        content = io.BytesIO()
        Image.fromarray(pixels).save(content, format="PNG")
        folder = self.folder / "images"
        folder.mkdir(exist_ok=True)
        write_bytes(folder / f"{name}_{env_steps:09d}.png", content.getvalue())
        self._events.add_image(name, pixels, env_steps, dataformats="HWC")

    def sync(self) -> None:
        """Make the rows so far durable: a checkpoint says that they are there."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        if "_events" in vars(self):
            self._events.close()

    def _write_scores(self) -> None:
        """Make scores.json hold the evaluations that there are; none, no file."""
        if self.xs:
            row = {**self.identity, "xs": self.xs, "ys": [_finite(y) for y in self.ys]}
            write_text(self.scores_path, json.dumps([row]) + "\n")
        else:
            self.scores_path.unlink(missing_ok=True)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl up to the first line that is none: the last may be cut off."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if not isinstance(row, dict) or type(row.get("env_steps")) is not int:
            break
        rows.append(row)
    return rows
