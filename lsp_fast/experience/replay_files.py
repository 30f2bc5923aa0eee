"""A replay on disk: one raw little-endian file a field, rows one after the other, append-only, with checksums."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from lsp_fast.errors import CheckpointError
from lsp_fast.files import sync_folder

VERSION = 1
CHUNK_BYTES = 1 << 24


class Rows(NamedTuple):
    """Rows one after the other, observations flat."""

    observation: np.ndarray  # [R, O], float32 or uint8 (bytes of frames, or of both: `lsp_fast.observed`)
    action: np.ndarray  # [R, A] float32
    reward: np.ndarray  # [R] float32
    terminal: np.ndarray  # [R] float32
    is_first: np.ndarray  # [R] bool
    extras: np.ndarray  # [R, X] float32, what task or agent wants to be kept; X is 0 for most


def empty_rows(rows: int, observation: int, action: int, extras: int = 0, dtype: DTypeLike = np.float32) -> Rows:
    """Uninitialised rows of these widths, observations of that type."""
    return Rows(
        np.empty((rows, observation), dtype),
        np.empty((rows, action), np.float32),
        np.empty(rows, np.float32),
        np.empty(rows, np.float32),
        np.empty(rows, bool),
        np.empty((rows, extras), np.float32),
    )


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
        self._extras, self._dtype = rows.extras.shape[1], rows.observation.dtype
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

    def append(self, pieces: Sequence[Rows]) -> None:
        """Add rows and make them durable; what lies behind the rows so far is cut. One that failed half-way, say on a
        full disk, may be repeated.

        Args:
            pieces: one after the other; nothing of their size is copied.

        Raises:
            CheckpointError: a file that was written earlier is gone or shorter.
            OSError: the disk's.
        """
        assert self.folder is not None
        checksums = {}
        for name, column in self.columns.items():
            path, checksum = self.folder / name, self.checksums[name]
            held = self.rows * column.row_bytes
            _check_size(path, held)
            with open(path, "r+b") as file:
                # What a save that failed left behind, or what came after the checkpoint that is gone on from.
                file.truncate(held)
                file.seek(held)
                for piece in pieces:
                    for chunk in _chunks(_bytes(getattr(piece, column.field), column)):
                        file.write(chunk)
                        checksum = zlib.crc32(chunk, checksum)
                file.flush()
                os.fsync(file.fileno())
            checksums[name] = checksum
        sync_folder(self.folder)
        self.checksums = checksums
        self.rows += sum(len(piece.reward) for piece in pieces)

    def read(self, folder: Path, rows: int, checksums: dict[str, int], into: Rows) -> None:
        """Read the last of the first `rows` rows, as many as `into` has; all of these rows are checked.

        Raises:
            CheckpointError: a file is missing, shorter, or not the one that was written.
        """
        for name, column in self.columns.items():
            array, path = getattr(into, column.field), folder / name
            _check_size(path, rows * column.row_bytes)
            with open(path, "rb") as file:
                given_way = bytearray(min(CHUNK_BYTES, skipped := (rows - len(array)) * column.row_bytes))
                checksum = 0
                while skipped:
                    part = memoryview(given_way)[:skipped]
                    checksum, skipped = _read(file, part, path, checksum), skipped - len(part)
                # Straight into the array, which nothing of its size stands beside.
                for chunk in _chunks(array.reshape(-1).view(np.uint8)):
                    checksum = _read(file, chunk, path, checksum)
            if checksum != checksums[name]:
                raise CheckpointError(f"{path} is not the file that the checkpoint belongs to: its content differs")
            if array.dtype != column.dtype and array.dtype.kind == "f":  # a machine of the other byte order
                array.byteswap(inplace=True)

    def episodes(self, folder: Path, state: dict[str, Any]) -> Iterator[Rows]:
        """The episodes that a folder's state says, oldest first, one in memory at a time; the files are checked first.

        Raises:
            CheckpointError: as `read` and `read_state` do, before the first episode.
        """
        rows, lengths, checksums = self.read_state(folder, state)
        columns: dict[str, np.ndarray] = {}
        for name, column in self.columns.items():
            path = folder / name
            _check_size(path, size := rows * column.row_bytes)
            with open(path, "rb") as file:
                part, checksum, left = bytearray(min(CHUNK_BYTES, size)), 0, size
                while left:
                    into = memoryview(part)[:left]
                    checksum, left = _read(file, into, path, checksum), left - len(into)
            if checksum != checksums[name]:
                raise CheckpointError(f"{path} is not the file that was written: its content differs")
            width = column.row_bytes // column.dtype.itemsize
            columns[column.field] = (
                np.memmap(path, column.dtype, "r", shape=(rows, width)) if size else np.empty((0, width), column.dtype)
            )
        begin = rows - sum(lengths)
        for length in lengths:
            episode = empty_rows(length, *self._widths, self._extras, self._dtype)
            for field, array in columns.items():
                getattr(episode, field)[...] = array[begin : begin + length].reshape(getattr(episode, field).shape)
            if not np.array_equal(np.flatnonzero(episode.is_first), [0]):
                raise CheckpointError(f"{self.path(folder, 'is_first')} does not fit the episodes of its folder")
            yield episode
            begin += length

    def adopt(self, folder: Path, rows: int, checksums: dict[str, int]) -> None:
        """Go on in a folder with so many rows; the next `append` cuts what lies behind them."""
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


def _bytes(array: np.ndarray, column: Column) -> np.ndarray:
    """Contiguous rows as the bytes of their file: a view, but on a machine of the other byte order."""
    kind = column.dtype if array.dtype.kind == "f" else array.dtype
    return np.ascontiguousarray(array, kind).reshape(-1).view(np.uint8)


def _chunks(data: np.ndarray) -> Iterator[memoryview]:
    """A view of bytes in parts that a disk takes at once."""
    for begin in range(0, len(data), CHUNK_BYTES):
        yield data[begin : begin + CHUNK_BYTES].data


def _read(file: BinaryIO, into: memoryview, path: Path, checksum: int) -> int:
    """Fill `into`, and give the checksum with it."""
    if file.readinto(into) != len(into):  # type: ignore[attr-defined]
        raise CheckpointError(f"{path} became shorter while it was read")
    return zlib.crc32(into, checksum)
