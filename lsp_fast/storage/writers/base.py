"""What every writer does, and what it is told of the run. Knows neither models nor agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lsp_fast.files import write_text
from lsp_fast.media import Video

Outcome = Literal["finished", "stopped", "failed"]
"""How a start of a run ended; after `stopped` the same command goes on."""


@dataclass(frozen=True)
class RunStart:
    """What a writer is told when a run begins or goes on."""

    folder: Path
    """The run's, which exists."""
    config: Mapping[str, Any]
    """Every value by its dotted name."""
    task: str
    method: str
    seed: int
    rows: Sequence[Mapping[str, Any]] = ()
    """Those written up to where a resumed run goes on, each with its `env_steps`; a number that was not finite is
    None."""

    @property
    def name(self) -> str:
        """What the run is called: its folder's name."""
        return self.folder.resolve().name

    def recall(self, name: str) -> str | None:
        """What a start before this one remembered; None where none did."""
        try:
            return self._note(name).read_text().strip() or None
        except FileNotFoundError:
            return None

    def remember(self, name: str, text: str) -> None:
        """Keep a text in the run's folder, NAME.txt: by which name a service knows the run, so that a resumed run goes
        on there."""
        write_text(self._note(name), text + "\n")

    def _note(self, name: str) -> Path:
        return self.folder / f"{name}.txt"


class LogWriter:
    """A place for rows, pictures and videos; what it does not keep it lets pass."""

    def scalars(self, env_steps: int, row: Mapping[str, float]) -> None:
        """Add one row of numbers, which need not be finite. Two rows may have the same `env_steps`."""

    def picture(self, env_steps: int, name: str, pixels: np.ndarray) -> None:
        """Keep a picture, uint8 [height, width, 3]."""

    def video(self, env_steps: int, name: str, video: Video) -> None:
        """Keep a video: `video.mp4` and `video.gif` are files' contents, `video.frames` the pictures."""

    def sync(self) -> None:
        """Make what came so far durable: a checkpoint says that it is there."""

    def finish(self, outcome: Outcome) -> None:
        """Flush and close; nothing comes after it."""


def finite(row: Mapping[str, Any]) -> dict[str, float]:
    """A kept row's numbers: without its time, and without those that were not finite."""
    return {name: value for name, value in row.items() if value is not None and name != "env_steps"}
