"""Videos and pictures that lie in runs' folders: within the page while there is room, else as links."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from lsp_fast.machine import size_text

KINDS = {
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".mp4": "video/mp4",
    ".png": "image/png",
    ".webm": "video/webm",
}
BEGINNINGS = {
    "image/gif": rb"GIF8",
    "image/jpeg": rb"\xff\xd8\xff",
    "image/png": rb"\x89PNG\r\n\x1a\n",
    "video/mp4": rb"....ftyp",
    "video/webm": rb"\x1a\x45\xdf\xa3",
}
"""That tell whether a file is what its name says."""
NOT_SHOWN = {"learning_curve.png", "learning_curves.png"}
"""The page has curves of its own."""
OTHERS = {"checkpoints", "replay"}
"""Folders in which no picture lies."""
AT = re.compile(r"_(\d{9})$")
"""The environment steps in a picture's name: of several only the newest is shown."""
WORDS = {
    "open_loop": "what the model predicts: truth, model and difference, a group of three rows for each sequence",
    "paths": "paths of the skills from above, and an episode's with the places where its skill changed",
    "skills": "skills held from one state, side by side",
}
"""What our own files show, by the beginnings of their names."""


class Medium(NamedTuple):
    """One video or picture."""

    title: str
    alt: str
    link: str
    """From the page's folder."""
    data: str | None
    """As a data URI; None where it is only linked."""
    video: bool
    width: int | None
    height: int | None
    size: str

    @property
    def wide(self) -> bool:
        """Whether it would be too small to read on a telephone."""
        return self.width is not None and self.height is not None and self.width > max(600, 1.3 * self.height)


class Shown(NamedTuple):
    """The media of all runs, by the runs' names, and what the page has no room for."""

    media: dict[str, list[Medium]]
    earlier: dict[str, list[Medium]]
    """Of an earlier environment step than one that is shown; linked."""
    left_out: list[str]
    warnings: list[str]


def media_of(folders: Iterable[tuple[str, Path, str]], page: Path, room: int) -> Shown:
    """What lies in some runs' folders and in the folders right below.

    Args:
        folders: of each run its name in the page, its folder, and what it is called.
        page: that links begin at.
        room: bytes of the page for all together. Small files come first, so that most find room.
    """
    found: list[tuple[str, str, Path, bool]] = []
    warnings: list[str] = []
    for name, folder, called in folders:
        for path, newest in _files(folder):
            if (why := _unfit(path)) is None:
                found.append((name, called, path, newest))
            else:
                warnings.append(f"left out: {path} {why}")
    inside: set[Path] = set()
    for _, _, path, newest in sorted(found, key=lambda entry: (_size(entry[2]), str(entry[2]))):
        if newest and (encoded := _size(path) * 4 // 3) <= room:
            inside.add(path)
            room -= encoded
    shown = Shown({}, {}, [], warnings)
    for name, called, path, newest in found:
        medium = _medium(path, called, page, path in inside)
        (shown.media if newest else shown.earlier).setdefault(name, []).append(medium)
        if newest and medium.data is None:
            shown.left_out.append(f"{path} ({medium.size})")
    return shown


def _files(folder: Path) -> list[tuple[Path, bool]]:
    """Pictures and videos, each with whether it is the newest of its name."""
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in OTHERS)]
    files = [
        path
        for place in places
        for path in sorted(_listed(place))
        if path.suffix.lower() in KINDS and path.name not in NOT_SHOWN and path.is_file()
    ]
    # A film is there once, and as a video it takes a tenth of the room.
    films = {path.with_suffix("") for path in files if path.suffix.lower() in (".mp4", ".webm")}
    files = [path for path in files if path.suffix.lower() != ".gif" or path.with_suffix("") not in films]
    newest = {_series(path): path for path in files}
    return [(path, newest[_series(path)] == path) for path in files]


def _listed(place: Path) -> list[Path]:
    try:
        return list(place.iterdir())
    except OSError:
        return []


def _series(path: Path) -> tuple[Path, str, str]:
    return path.parent, AT.sub("", path.stem), path.suffix


def _unfit(path: Path) -> str | None:
    """Why a file cannot be shown; None where it can."""
    kind = KINDS[path.suffix.lower()]
    try:
        with path.open("rb") as file:
            begins = file.read(16)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if re.match(BEGINNINGS[kind], begins, re.DOTALL) else f"is no {kind}"


def _medium(path: Path, called: str, page: Path, inside: bool) -> Medium:
    kind = KINDS[path.suffix.lower()]
    try:
        content = path.read_bytes() if inside else b""
    except OSError:  # replaced meanwhile, by a run that goes on
        content = b""
    data = f"data:{kind};base64,{base64.b64encode(content).decode()}" if content else None
    at, stem = AT.search(path.stem), AT.sub("", path.stem)
    title = path.name if at is None else f"{stem}, at {int(at[1]):,} environment steps"
    words = next((words for begins, words in WORDS.items() if stem.startswith(begins)), path.name)
    size = _dimensions(content, kind) if content else (None, None)
    link = quote(Path(os.path.relpath(path, page.parent)).as_posix())
    return Medium(title, f"{called}: {words}", link, data, kind.startswith("video/"), *size, size_text(_size(path)))


def _dimensions(content: bytes, kind: str) -> tuple[int | None, int | None]:
    """Width and height in pixels; None where they cannot be told."""
    if kind == "video/mp4":
        # The track's header ends with them, each followed by 16 bits of a fraction.
        at = content.find(b"tkhd") - 4
        if at < 0:
            return None, None
        end = at + int.from_bytes(content[at : at + 4])
        width, height = (int.from_bytes(content[end - back : end - back + 2]) for back in (8, 4))
        return (width, height) if width and height else (None, None)
    if kind == "video/webm":
        return None, None
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size
    except Exception:  # damaged; the page then says what it should show
        return None, None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
