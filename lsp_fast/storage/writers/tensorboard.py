"""TensorBoard: `--log tensorboard`, which is there by default."""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lsp_fast.media import Video
from lsp_fast.storage.writers.base import LogWriter, Outcome, RunStart, finite

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class TensorBoard(LogWriter):
    """Events in the run's folder. What an earlier start wrote behind the checkpoint is marked as not counting."""

    def __init__(self, start: RunStart) -> None:
        self._start = start

    @functools.cached_property
    def _events(self) -> SummaryWriter:
        """Made with the first row: a start that adds nothing leaves no file."""
        from torch.utils.tensorboard.writer import SummaryWriter

        _quiet_worker()
        start = self._start
        new = not list(start.folder.glob("events.out.tfevents*"))
        # Even where no row was kept: one that was killed before it had a checkpoint leaves events.
        begin = start.rows[-1]["env_steps"] + 1 if start.rows else 0
        events = SummaryWriter(str(start.folder), purge_step=None if new else begin)
        for row in start.rows if new else ():  # the run was logged elsewhere so far
            _add(events, row["env_steps"], finite(row))
        return events

    def scalars(self, env_steps: int, row: Mapping[str, float]) -> None:
        _add(self._events, env_steps, row)

    def picture(self, env_steps: int, name: str, pixels: np.ndarray) -> None:
        self._events.add_image(name, pixels, env_steps, dataformats="HWC")

    def video(self, env_steps: int, name: str, video: Video) -> None:
        # `add_video` does the same with moviepy, which nothing else here needs.
        proto: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2")  # unknown to type checkers
        height, width, colours = video.frames[0].shape
        image = proto.Summary.Image(height=height, width=width, colorspace=colours, encoded_image_string=video.gif)
        summary = proto.Summary(value=[proto.Summary.Value(tag=name, image=image)])
        self._events._get_file_writer().add_summary(summary, env_steps)

    def finish(self, outcome: Outcome) -> None:
        if "_events" in vars(self):
            self._events.close()


@functools.cache
def _quiet_worker() -> None:
    """TensorBoard writes on a thread of its own. What stops that is raised by the next call, too, and told there in a
    line; a traceback of the thread says no more."""
    from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread

    before = threading.excepthook

    def tell(args: Any) -> None:
        if not isinstance(args.thread, _AsyncWriterThread):
            before(args)

    threading.excepthook = tell


def _add(events: SummaryWriter, env_steps: int, row: Mapping[str, float]) -> None:
    for name, value in row.items():
        events.add_scalar(name, value, env_steps)
