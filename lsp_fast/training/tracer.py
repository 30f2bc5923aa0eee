"""Where the time of a few updates goes."""

from __future__ import annotations

from pathlib import Path

import torch


class Tracer:
    """A torch.profiler trace of a few updates and what lies between them, for Perfetto or chrome://tracing.

    Args:
        path: of the JSON file.
        skip: updates before the first that may be traced; one more warms up.
    """

    UPDATES = 3

    def __init__(self, path: Path, skip: int) -> None:
        activity = torch.profiler.ProfilerActivity
        self.path, self.written = path, False
        self._profile = torch.profiler.profile(
            activities=[activity.CPU, *([activity.CUDA] if torch.cuda.is_available() else [])],
            schedule=torch.profiler.schedule(wait=1, warmup=1, active=self.UPDATES, repeat=1, skip_first=skip),
            on_trace_ready=self._write,
        )
        self._profile.start()

    def step(self) -> None:
        """An update is done."""
        if not self.written:
            self._profile.step()

    def close(self) -> None:
        """The run has ended, with or without enough updates."""
        if not self.written:
            self._profile.stop()

    def _write(self, profile: torch.profiler.profile) -> None:
        # A run that ends early hands over what there is.
        self.written = True
        profile.export_chrome_trace(str(self.path))
