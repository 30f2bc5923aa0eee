"""A run's numbers, pictures and videos, to every place that the configuration names (`storage/writers/`)."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lsp_fast.media import Video
from lsp_fast.storage.metrics import read_rows
from lsp_fast.storage.writers.base import LogWriter, Outcome, RunStart
from lsp_fast.storage.writers.guarded import PATIENCE, Guarded
from lsp_fast.storage.writers.json_lines import JsonLines
from lsp_fast.storage.writers.pictures import Pictures
from lsp_fast.storage.writers.registry import find
from lsp_fast.storage.writers.scores import Scores


class RunLogger(LogWriter):
    """All the places of a run's numbers. The run's own files must be written; every other place may fail.

    Args:
        folder: the run's; made if absent.
        identity: task, method and seed.
        rows: how many there were where a resumed run goes on; those after them are cut.
        log: names of further places.
        config: every value by its dotted name, for those that keep it.
        tell: says of one of them that it is left out; a warning by default.

    Attributes:
        rows: written so far.
        xs, ys: environment steps and mean returns of the evaluations so far.
        writers: every row, picture and video goes to each of them.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        rows: int = 0,
        log: Iterable[str] = (),
        config: Mapping[str, Any] | None = None,
        tell: Callable[[str], object] = warnings.warn,
    ) -> None:
        openers = {name: find(name) for name in log}
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
        start = RunStart(folder, dict(config or {}), **identity, rows=kept)
        self.writers: list[LogWriter] = [JsonLines(path, kept), scores, Pictures(folder)]
        self.writers += [Guarded(name, functools.partial(opener, start), tell) for name, opener in openers.items()]

    def scalars(self, env_steps: int, row: Mapping[str, float]) -> None:
        self.rows += 1
        for writer in self.writers:
            writer.scalars(env_steps, row)

    def picture(self, env_steps: int, name: str, pixels: np.ndarray) -> None:
        for writer in self.writers:
            writer.picture(env_steps, name, pixels)

    def video(self, env_steps: int, name: str, video: Video) -> None:
        for writer in self.writers:
            writer.video(env_steps, name, video)

    def sync(self) -> None:
        for writer in self.writers:
            writer.sync()

    def finish(self, outcome: Outcome) -> None:
        """Close all; those elsewhere end side by side, and are not waited for without end."""
        for writer in reversed(self.writers):  # the run's own come last: a disk may fail them
            writer.finish(outcome)
        until = time.monotonic() + PATIENCE[outcome]
        for writer in self.writers:
            if isinstance(writer, Guarded):
                writer.wait(until - time.monotonic())


class Silent(LogWriter):
    """What a process has that does not log: it keeps nothing."""

    def __init__(self) -> None:
        self.rows = 0
        self.xs: list[int] = []
        self.ys: list[float] = []
