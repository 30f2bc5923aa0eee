"""Pictures and videos as files of the run's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lsp_fast.files import write_bytes
from lsp_fast.media import Video, png
from lsp_fast.storage.writers.base import LogWriter


class Pictures(LogWriter):
    """images/NAME_STEPS.png and videos/NAME_STEPS.mp4 in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def picture(self, env_steps: int, name: str, pixels: np.ndarray) -> None:
        self._write("images", f"{name}_{env_steps:09d}.png", png(pixels))

    def video(self, env_steps: int, name: str, video: Video) -> None:
        self._write("videos", f"{name}_{env_steps:09d}.mp4", video.mp4)

    def _write(self, kind: str, name: str, content: bytes) -> None:
        (self._folder / kind).mkdir(exist_ok=True)
        write_bytes(self._folder / kind / name, content)
