"""Pictures and videos as the bytes of a file: PNG, MP4, GIF."""

from __future__ import annotations

import functools
import io
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lsp_fast.errors import LspFastError, first_line

VIDEOS = ".mp4", ".gif"
"""Suffixes that a video may have."""
COLOURS = 128
"""Of a GIF's frame."""


def png(pixels: np.ndarray) -> bytes:
    """A picture, uint8 [height, width, 3], as PNG."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


@dataclass(frozen=True)
class Video:
    """Frames that follow one another. Each format is made once, when it is first asked for."""

    frames: Sequence[np.ndarray]
    """At least one, uint8 [height, width, 3], all of one size."""
    fps: int = 20
    """Frames a second."""

    def file(self, suffix: str) -> bytes:
        """The content of a file with one of the suffixes VIDEOS.

        Raises:
            LspFastError: an MP4 cannot be made here.
        """
        return {".mp4": lambda: self.mp4, ".gif": lambda: self.gif}[suffix]()

    @functools.cached_property
    def mp4(self) -> bytes:
        """H.264 in 4:2:0, which every browser plays; the index lies in front, so that it plays while it loads.

        4:2:0 has one colour for 2x2 pixels: an odd side grows by a pixel, which repeats its neighbour.

        Raises:
            LspFastError: there is no ffmpeg, or it failed.
        """
        import imageio_ffmpeg

        height, width, _ = self.frames[0].shape
        even = [np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge") for frame in self.frames]
        shape = f"{width + width % 2}x{height + height % 2}"
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "video.mp4"
                # One thread and no tags: the same frames are the same bytes.
                subprocess.run(
                    [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-threads", "1",
                     "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", shape, "-r", str(self.fps), "-i", "-",
                     "-c:v", "libx264", "-threads", "1", "-crf", "20", "-pix_fmt", "yuv420p", "-an",
                     "-movflags", "+faststart", "-fflags", "+bitexact", "-flags:v", "+bitexact", str(path)],
                    input=np.stack(even).tobytes(), capture_output=True, check=True,
                    start_new_session=True,  # Ctrl-C is for the run, which ends with a checkpoint
                )  # fmt: skip
                return path.read_bytes()
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").splitlines() or [f"ended with status {error.returncode}"]
            raise LspFastError(f"an MP4 cannot be made: ffmpeg {said[0]}; a .gif needs no ffmpeg") from error
        except (OSError, RuntimeError) as error:  # no ffmpeg, or no room for its file
            raise LspFastError(f"an MP4 cannot be made: {first_line(error)}; a .gif needs no ffmpeg") from error

    @functools.cached_property
    def gif(self) -> bytes:
        """An animated GIF that begins anew."""
        from PIL import Image

        pictures = [Image.fromarray(frame).quantize(COLOURS) for frame in self.frames]
        content = io.BytesIO()
        pictures[0].save(
            content, format="GIF", save_all=True, append_images=pictures[1:], duration=1000 // self.fps, loop=0,
            optimize=False,
        )  # fmt: skip
        return content.getvalue()
