"""Writing so that a crash or a full disk leaves either the old content or the new one."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

PART = ".part"
"""Suffix of a file that is being written; one that a crash left may be deleted."""


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Replace a file's content atomically and durably.

    Raises:
        OSError: the disk's, with the file's name; the old content is still there, and nothing half-written.
    """
    part = path.with_name(path.name + PART)
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        # A write that fails names no file, and the other name is one that nobody chose.
        error.filename, error.filename2 = str(path), None
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8."""
    write_bytes(path, text.encode())


def sync_folder(folder: Path) -> None:
    """Make the names of a folder's files durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_writable(folder: Path) -> None:
    """Refuse early what could not be written into `folder`, which need not be there yet. Nothing is made.

    Raises:
        OSError: a file lies in the way, or writing is not allowed; `filename` says where.
    """
    place = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
