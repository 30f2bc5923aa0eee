"""PNG, MP4 and GIF are what players and browsers take."""

import io
import re
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from lsp_fast.errors import LspFastError
from lsp_fast.media import Video, png


def shades(height=32, width=48, count=10):
    """Frames from dark to light."""
    return [np.full((height, width, 3), 20 * shade, np.uint8) for shade in range(count)]


def decoded(path):
    """The frames of a video file, [T, height, width, 3], and what ffmpeg says of it."""
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]), meta


def test_a_picture_keeps_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 255, (7, 5, 3), np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(png(pixels)))) == pixels).all()


@pytest.mark.parametrize(("height", "width"), [(32, 48), (33, 47), (160, 960)])
def test_an_mp4_has_all_frames_in_their_order_and_even_sides(tmp_path, height, width):
    path = tmp_path / "x.mp4"
    path.write_bytes(Video(shades(height, width), fps=20).mp4)
    frames, meta = decoded(path)
    assert frames.shape == (10, height + height % 2, width + width % 2, 3) and meta["fps"] == 20
    assert np.abs(frames.mean((1, 2, 3)) - [20 * shade for shade in range(10)]).max() < 4


def test_an_mp4_is_what_browsers_play(tmp_path):
    path = tmp_path / "x.mp4"
    path.write_bytes(Video(shades()).mp4)
    told = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", path], capture_output=True, text=True).stderr
    assert re.search(r"Video: h264 \([^)]*\) \(avc1[^)]*\), yuv420p", told)
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # plays while it loads


def test_the_same_frames_are_the_same_bytes():
    assert Video(shades()).mp4 == Video(shades()).mp4
    assert Video(shades()).gif == Video(shades()).gif


def test_a_gif_moves_and_begins_anew():
    video = Image.open(io.BytesIO(Video(shades(), fps=20).file(".gif")))
    assert video.n_frames == 10 and video.size == (48, 32)
    assert video.info["duration"] == 50 and video.info["loop"] == 0


def test_a_format_is_made_once(monkeypatch):
    video = Video(shades())
    first = video.file(".mp4")
    monkeypatch.setattr(subprocess, "run", None)
    assert video.file(".mp4") is first


@pytest.mark.parametrize(
    ("program", "why"), [("/nowhere/ffmpeg", "No such file"), ("/bin/false", "ffmpeg ended with status 1")]
)
def test_without_ffmpeg_the_remedy_is_named(monkeypatch, program, why):
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: program)
    with pytest.raises(LspFastError, match=rf"an MP4 cannot be made: .*{why}.*; a \.gif needs no ffmpeg"):
        _ = Video(shades()).mp4
    assert Video(shades()).gif
