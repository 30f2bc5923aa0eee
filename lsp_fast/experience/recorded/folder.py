"""An imported replay on disk: a run's files of rows, and beside them `data.json`, which says what they are."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lsp_fast.errors import CheckpointError, LspFastError
from lsp_fast.experience.recorded.form import About, Stored
from lsp_fast.experience.replay_files import ReplayFiles, Rows, empty_rows
from lsp_fast.files import write_text

FILE = "data.json"
VERSION = 1
TOGETHER = 1 << 26
"""Bytes of observations that are written, and made durable, together."""


def holds(path: Path) -> bool:
    """Whether an imported replay lies there."""
    return (path / FILE).is_file()


def write_folder(folder: Path, episodes: Iterator[Rows], shape: Any, about: About, origin: str) -> Stored:
    """Write episodes as they come, and what they are at last.

    Args:
        folder: that is there.
        shape: called after the first episode, gives what an observation is: O, or [H, W, C].
        about: of the rows.
        origin: what they were imported from, for people.

    Raises:
        OSError: the disk's.
    """
    files, lengths, pieces, size = None, [], [], 0
    widths = 0, 0, 0
    for rows in episodes:
        if files is None:
            widths = rows.observation.shape[1], rows.action.shape[1], rows.extras.shape[1]
            files = ReplayFiles(empty_rows(0, *widths, rows.observation.dtype))
            files.begin(folder)
        lengths.append(len(rows.reward))
        pieces.append(rows)
        size += rows.observation.nbytes
        if size >= TOGETHER:
            files.append(pieces)
            pieces, size = [], 0
    assert files is not None  # a recording without episodes was refused
    files.append(pieces)
    observation = shape()
    if not widths[2]:  # the recording lacks the numbers beside its rows, or merging lost them
        about = dataclasses.replace(about, extras="")
    told = {
        "version": VERSION,
        "origin": origin,
        "observation": observation,
        "action_dim": widths[1],
        "extras_dim": widths[2],
        "about": about.told(),
        "replay": files.state(lengths),
    }
    write_text(folder / FILE, json.dumps(told) + "\n")
    return read_folder(folder)


def read_folder(folder: Path) -> Stored:
    """An imported replay; its files are read when its episodes are.

    Raises:
        LspFastError: there is none, or it cannot be read.
    """
    try:
        told = json.loads((folder / FILE).read_text())
        if told["version"] != VERSION:
            raise LspFastError(
                f"{folder} has version {told['version']!r} of imported data; this program reads {VERSION}"
            )
        observation, state = told["observation"], told["replay"]
        observation = tuple(observation) if isinstance(observation, list) else int(observation)
        action_dim, extras_dim = int(told["action_dim"]), int(told["extras_dim"])
        about, lengths = About.read(told["about"]), [int(length) for length in state["episodes"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LspFastError(f"{folder / FILE} cannot be used: {error!r}; import the recording anew") from error
    episodes = functools.partial(_episodes, folder, state, observation, action_dim, extras_dim)
    return Stored(str(folder), about, observation, action_dim, extras_dim, lengths, episodes)


def _episodes(
    folder: Path, state: dict[str, Any], observation: int | tuple[int, ...], action_dim: int, extras_dim: int
) -> Iterator[Rows]:
    files = files_of(observation, action_dim, extras_dim)
    try:
        yield from files.episodes(folder, state)
    except CheckpointError as error:
        raise LspFastError(f"{error}; import the recording anew") from error


def files_of(observation: int | tuple[int, ...], action_dim: int, extras_dim: int) -> ReplayFiles:
    """The files of a replay with rows of these shapes: features are float32, frames uint8."""
    dtype = np.float32 if isinstance(observation, int) else np.uint8
    return ReplayFiles(empty_rows(0, int(np.prod(observation)), action_dim, extras_dim, dtype))
