"""An HDF5 file of D4RL's kind: all steps one after the other, and marks where episodes end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lsp_fast.errors import LspFastError
from lsp_fast.experience.recorded.form import About, Asked, Notes, Place, Recording, Source
from lsp_fast.extras import load

NEEDED = "observations", "actions", "rewards"
TERMINALS, TIMEOUTS, NEXT = "terminals", "timeouts", "next_observations"
PIECE = 1 << 16
"""Rows that are compared at a time."""


def open_hdf5(path: Path, asked: Asked) -> Source:
    """The file is read while its episodes are.

    Raises:
        LspFastError: it is no such file, or nothing says where episodes end; it names the field.
    """
    h5py = load("h5py", "data", f"{path}")
    with _opened(h5py, path) as file:
        lengths = _lengths(h5py, path, file, asked)
        marks = _Marks(path, file, asked, lengths["observations"])

    def episodes(notes: Notes) -> Iterator[Recording]:
        if marks.unmarked:
            notes.said.append(
                f"{marks.unmarked} episodes end where {NEXT} is not the row after, though nothing marks their end"
            )
        if not marks.follows:
            notes.say(
                f"without {NEXT} nothing says where an episode's last action led: its last step is left out, with "
                f"{marks.terminations} terminations in all"
            )
        with _opened(h5py, path) as file:
            begin = 0
            for number, end in enumerate(marks.ends):
                yield _recording(path, file, marks, number, begin, end)
                begin = end

    # D4RL records every step of an environment.
    return Source("HDF5", About(action_repeat=1), None, episodes)


class _Marks:
    """Where the episodes of a file end.

    Attributes:
        ends: behind each episode's last row.
        terminal: bool [N], whether the task ended after a row.
        follows: whether the file says where each action led.
        unmarked: ends that nothing but a break in the observations tells.
        terminations: in all.
    """

    def __init__(self, path: Path, file: Any, asked: Asked, rows: int) -> None:
        self.follows = NEXT in file
        if TERMINALS not in file and not asked.never_ends:
            raise LspFastError(
                _missing(path, file, TERMINALS, "Where the task ends by its time alone, give --never-ends")
            )
        self.terminal = _read(path, file, TERMINALS).reshape(-1) > 0 if TERMINALS in file else np.zeros(rows, bool)
        ends = self.terminal.copy()
        if TIMEOUTS in file:
            ends |= _read(path, file, TIMEOUTS).reshape(-1) > 0
        elif asked.episode_length:
            _by_length(ends, asked.episode_length)
        elif not self.follows:
            raise LspFastError(
                _missing(path, file, TIMEOUTS, "Where every episode takes as many steps, give --episode-length")
            )
        self.unmarked = 0
        if self.follows:
            for begin in range(0, rows - 1, PIECE):
                end = min(begin + PIECE, rows - 1)
                led = _read(path, file, NEXT, begin, end)
                found = _read(path, file, "observations", begin + 1, end + 1)
                broken = ~np.isclose(led, found, rtol=1e-4, atol=1e-6, equal_nan=True).reshape(end - begin, -1).all(1)
                self.unmarked += int((broken & ~ends[begin:end]).sum())
                ends[begin:end] |= broken
        if rows:
            ends[-1] = True
        self.ends = (np.flatnonzero(ends) + 1).tolist()
        self.terminations = int(self.terminal.sum())


def _by_length(ends: np.ndarray, length: int) -> None:
    """Mark an end after every so many steps of an episode."""
    begin = 0
    for end in [*(np.flatnonzero(ends) + 1).tolist(), len(ends)]:
        ends[begin + length - 1 : end : length] = True
        begin = end


def _recording(path: Path, file: Any, marks: _Marks, number: int, begin: int, end: int) -> Recording:
    """Rows `begin` to `end`: as many steps where the file says where the last one led, and one less otherwise."""
    last = end if marks.follows else end - 1
    observation = _read(path, file, "observations", begin, end)
    if marks.follows:
        observation = np.concatenate([observation, _read(path, file, NEXT, end - 1, end)])
    action, reward = (_read(path, file, name, begin, last) for name in ("actions", "rewards"))
    places = Place("observations", begin), Place("actions", begin), Place("rewards", begin)
    terminated = marks.follows and bool(marks.terminal[end - 1])
    return Recording(f"episode {number} of {path.name}", observation, action, reward, terminated, places)


def _opened(h5py: Any, path: Path) -> Any:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise LspFastError(f"{path} is not a readable HDF5 file: {error}") from error


def _read(path: Path, file: Any, name: str, begin: int = 0, end: int | None = None) -> np.ndarray:
    """Rows of a field. A file opens where only a piece of it is damaged."""
    try:
        return file[name][begin:end]
    except (OSError, RuntimeError) as error:
        raise LspFastError(f"{path}: {name} cannot be read from row {begin} on: {error}") from error


def _lengths(h5py: Any, path: Path, file: Any, asked: Asked) -> dict[str, int]:
    """Rows of each field, which must be as many in all."""
    for name in NEEDED:
        if name not in file:
            raise LspFastError(_missing(path, file, name, "D4RL's files have observations, actions and rewards"))
    found: dict[str, int] = {}
    for name in (*NEEDED, TERMINALS, TIMEOUTS, NEXT):
        if name not in file:
            continue
        if not isinstance(file[name], h5py.Dataset) or not file[name].shape:
            raise LspFastError(f"{path}: {name} is not an array of one entry a step")
        if file[name].dtype.kind not in "fiub":
            raise LspFastError(f"{path}: {name} holds {file[name].dtype}; numbers are needed")
        found[name] = file[name].shape[0]
    rows = found["observations"]
    for name, length in found.items():
        if length != rows:
            raise LspFastError(f"{path}: {name} has {length} rows and observations {rows}; each step has one of each")
    for name in (TERMINALS, TIMEOUTS):
        if name in file and file[name].size != rows:
            raise LspFastError(f"{path}: {name} has shape {file[name].shape}; one mark a step is needed")
    if NEXT in file and file[NEXT].shape != file["observations"].shape:
        raise LspFastError(
            f"{path}: {NEXT} has shape {file[NEXT].shape} and observations {file['observations'].shape}; they are the "
            "same, a step later"
        )
    if asked.episode_length < 0:
        raise LspFastError(f"--episode-length {asked.episode_length}: must be at least 1")
    return found


def _missing(path: Path, file: Any, name: str, remedy: str) -> str:
    return f"{path}: {name} is missing; there are {', '.join(sorted(file))}. {remedy}"
