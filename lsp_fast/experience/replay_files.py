"""A replay on disk: one raw little-endian file a field, rows one after the other, append-only, with checksums."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lsp_fast.errors import CheckpointError
from lsp_fast.files import sync_folder

VERSION = 1
CHUNK_BYTES = 1 << 24


class Rows(NamedTuple):
    """Rows one after the other, observations flat."""

    observation: np.ndarray  # [R, O], float32 or uint8
    action: np.ndarray  # [R, A] float32
    reward: np.ndarray  # [R] float32
    terminal: np.ndarray  # [R] float32
    is_first: np.ndarray  # [R] bool
    extras: np.ndarray  # [R, X] float32, what task or agent wants to be kept; X is 0 for most


class Column(NamedTuple):
    """A field of Rows on disk."""

    field: str
    dtype: np.dtype
    row_bytes: int


class ReplayFiles:
    """The files of one replay's rows.

    Args:
        rows: of the replay's widths and types; their number does not matter.

    Attributes:
        columns: by the file's name.
        folder: that holds the files; None before there are any.
        rows, checksums: in the files, and each file's CRC-32.
    """

    def __init__(self, rows: Rows) -> None:
        self._widths = rows.observation.shape[1], rows.action.shape[1]
        self.columns: dict[str, Column] = {}
        for field, array in zip(Rows._fields, rows, strict=True):
            width = int(np.prod(array.shape[1:]))
            if width == 0:  # no extras, no file
                continue
            kind, dtype = {"f": ("f32", "<f4"), "u": ("u8", "u1"), "b": ("u8", "u1")}[array.dtype.kind]
            name = {"extras": "track"}.get(field, field)  # as folders have called it from the first
            self.columns[f"{name}.{kind}"] = Column(field, np.dtype(dtype), width * np.dtype(dtype).itemsize)
        self.folder: Path | None = None
        self.rows = 0
        self.checksums: dict[str, int] = {}

    def begin(self, folder: Path) -> None:
        """Empty files in a folder, which is made if absent."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.columns:
            (folder / name).write_bytes(b"")
        self.folder, self.rows, self.checksums = folder, 0, dict.fromkeys(self.columns, 0)

    def append(self, new: Rows) -> None:
        """Add rows and make them durable. One that failed half-way, say on a full disk, may be repeated.

        Raises:
            CheckpointError: a file that was written earlier is gone or shorter.
            OSError: the disk's.
        """
        assert self.folder is not None
        checksums = {}
        for name, column in self.columns.items():
            path = self.folder / name
            data = np.ascontiguousarray(getattr(new, column.field), column.dtype).reshape(-1).view(np.uint8).data
            held = self.rows * column.row_bytes
            _check_size(path, held)
            with open(path, "r+b") as file:
                file.seek(held)  # over what a failed one left behind; `adopt` cuts what sticks out
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            checksums[name] = zlib.crc32(data, self.checksums[name])
        sync_folder(self.folder)
        self.checksums = checksums
        self.rows += len(new.reward)

    def read(self, folder: Path, rows: int, checksums: dict[str, int], into: Rows) -> None:
        """Read the last of the first `rows` rows, as many as `into` has; all of these rows are checked.

        Raises:
            CheckpointError: a file is missing, shorter, or not the one that was written.
        """
        for name, column in self.columns.items():
            array, path = getattr(into, column.field), folder / name
            _check_size(path, rows * column.row_bytes)
            _check_content(path, rows * column.row_bytes, checksums[name])
            first = (rows - len(array)) * column.row_bytes
            array[...] = np.fromfile(path, column.dtype, array.size, offset=first).reshape(array.shape)

    def adopt(self, folder: Path, rows: int, checksums: dict[str, int]) -> None:
        """Go on in a folder with so many rows; what was appended after them is cut."""
        for name, column in self.columns.items():
            if (folder / name).stat().st_size > rows * column.row_bytes:
                os.truncate(folder / name, rows * column.row_bytes)
        self.folder, self.rows, self.checksums = folder, rows, checksums

    def path(self, folder: Path, field: str) -> Path:
        """Of a field's file."""
        return next(folder / name for name, column in self.columns.items() if column.field == field)

    def state(self, lengths: list[int]) -> dict[str, Any]:
        """What `read_state` takes, as JSON. `lengths` are the live episodes', oldest first: the files' last rows."""
        observation_dim, action_dim = self._widths
        return {
            "version": VERSION,
            "observation_dim": observation_dim,
            "action_dim": action_dim,
            "rows": self.rows,
            "checksums": self.checksums,
            "episodes": lengths,
        }

    def read_state(self, folder: Path, state: dict[str, Any]) -> tuple[int, list[int], dict[str, int]]:
        """Rows in the files, lengths of the live episodes, checksums; checked as far as possible without the files.

        Raises:
            CheckpointError: the state is damaged, of another version or another task, or contradicts itself.
        """
        try:
            version, widths = state["version"], (state["observation_dim"], state["action_dim"])
            rows, lengths = int(state["rows"]), [int(length) for length in state["episodes"]]
            checksums = {name: int(state["checksums"][name]) for name in self.columns}
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint's state of the replay in {folder} is damaged: {error!r}") from error
        if version != VERSION:
            raise CheckpointError(f"the replay in {folder} has version {version!r}; this program reads {VERSION}")
        if widths != self._widths:
            raise CheckpointError(
                f"the replay in {folder} holds observations and actions of {widths[0]} and {widths[1]} numbers; "
                f"this task has {self._widths[0]} and {self._widths[1]}"
            )
        if rows < 0 or any(length < 1 for length in lengths) or sum(lengths) > rows:
            raise CheckpointError(f"the checkpoint's state of the replay in {folder} contradicts itself")
        return rows, lengths, checksums


def _check_size(path: Path, size: int) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    if path.stat().st_size < size:
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes, the checkpoint needs {size}")


def _check_content(path: Path, size: int, checksum: int) -> None:
    """The first `size` bytes must be those that were saved."""
    found = 0
    with open(path, "rb") as file:
        while size:
            chunk = file.read(min(size, CHUNK_BYTES))
            if not chunk:
                raise CheckpointError(f"{path} became shorter while it was read")
            found = zlib.crc32(chunk, found)
            size -= len(chunk)
    if found != checksum:
        raise CheckpointError(f"{path} is not the file that the checkpoint belongs to: its content differs")
