"""A writer that cannot end a run, nor hold it up."""

from __future__ import annotations

import os
import queue
import re
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lsp_fast.errors import first_line
from lsp_fast.media import Video
from lsp_fast.storage.writers.base import LogWriter, Outcome

STALLED = 300.0
"""Seconds that one call may take; a server that does not answer is given up by its own library before that."""
PATIENCE: dict[Outcome, float] = {"finished": 90.0, "stopped": 20.0, "failed": 20.0}
"""Seconds that the end of a run waits for all that was written. A scheduler that stops a run gives it about 30."""


class Guarded(LogWriter):
    """Hands every call to a writer that lives on a thread of its own.

    What it raises is warned of once, with the cause; so is a call that does not come back. Then the writer is left out,
    and the run goes on.

    Args:
        name: as `--log` has it.
        open_writer: makes the writer, on that thread too: some libraries want to be used where they were opened.
        tell: says it; a warning by default.
    """

    def __init__(
        self, name: str, open_writer: Callable[[], LogWriter], tell: Callable[[str], object] = warnings.warn
    ) -> None:
        self._name, self._open, self._tell = name, open_writer, tell
        self._calls: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()
        self._since: float | None = time.monotonic()  # when the call that is under way began
        self._doing, self._failure, self._left = "opening", "", False
        self._thread = threading.Thread(target=self._work, name=f"log-{name}", daemon=True)
        self._thread.start()

    def scalars(self, env_steps: int, row: Mapping[str, float]) -> None:
        self._hand("scalars", env_steps, dict(row))

    def picture(self, env_steps: int, name: str, pixels: np.ndarray) -> None:
        self._hand("picture", env_steps, name, pixels)

    def video(self, env_steps: int, name: str, video: Video) -> None:
        self._hand("video", env_steps, name, video)

    def sync(self) -> None:
        self._hand("sync")

    def finish(self, outcome: Outcome) -> None:
        self._hand("finish", outcome)

    def wait(self, seconds: float) -> None:
        """After `finish`: until all is done, at most so long."""
        if not self._left:
            self._thread.join(max(seconds, 0))
            if self._thread.is_alive():
                self._failure = f"{self._doing} is not done at the end of the run, and is not waited for any longer"
            self._watch()

    def _hand(self, call: str, *arguments: Any) -> None:
        self._watch()
        if not self._left:
            self._calls.put((call, arguments))

    def _watch(self) -> None:
        """Say once that the writer failed, or does not come back, and leave it out."""
        since = self._since
        if not self._failure and since is not None and time.monotonic() - since > STALLED:
            self._failure = f"{self._doing} has not come back for {STALLED:.0f} seconds"
        if self._failure and not self._left:
            self._left = True
            with suppress(queue.Empty):  # what waits is let go: one that comes back after all only ends
                while True:
                    self._calls.get_nowait()
            self._calls.put(("finish", ("stopped",)))
            self._tell(f"--log {self._name} is left out, and the run goes on: {self._failure}")

    def _work(self) -> None:
        """On the writer's own thread: open it, and make every call in its turn."""
        writer = None
        try:
            writer = self._open()
            while self._doing != "finish":
                self._since = None
                self._doing, arguments = self._calls.get()
                self._since = time.monotonic()
                getattr(writer, self._doing)(*arguments)
            self._since = None
        except BaseException as error:  # a library may even ask to exit
            self._failure = told(error, self._doing)
            if writer is not None and self._doing != "finish":
                with suppress(BaseException):
                    writer.finish("stopped")


def told(error: BaseException, doing: str) -> str:
    """What went wrong in which call and line, and what that was caused by, without keys and passwords."""
    said = [f"{type(error).__name__}: {first_line(error)}".removesuffix(f": {type(error).__name__}")]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    seen = {id(error)}
    while (cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        if id(cause) in seen:
            break
        seen.add(id(cause))
        error = cause
    if len(seen) > 1:
        said.append(f"caused by {type(error).__name__}: {first_line(error)}")
    return without_secrets(f"{doing}{where}: " + ", ".join(said))


def without_secrets(text: str) -> str:
    """The text without what a variable keeps that is named for a key, and without a URL's user and password."""
    for name, value in os.environ.items():
        if len(value) > 3 and re.search(r"KEY|TOKEN|SECRET|PASSWORD", name):
            text = text.replace(value, "***")
    return re.sub(r"://[^/@\s]+@", "://***@", text)
