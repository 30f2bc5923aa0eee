"""A folder of `.npz` files, an episode each, as Dreamer's programs write them."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lsp_fast.errors import LspFastError
from lsp_fast.experience.recorded.form import ABOUT, About, Asked, Notes, Place, Recording, Source, Stored

FEATURES = "observation", "observations", "obs", "state", "vector"
FRAMES = "image"
ACTION, REWARD = ("action", "actions"), ("reward", "rewards")
TERMINAL = "is_terminal", "terminal", "terminals"
DISCOUNT = "discount"
FIRST = "is_first"
EXTRAS = "extras"
ABOUT_FILE = f"{ABOUT}.json"
DAMAGED = OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error
"""What numpy raises of a file that is cut off, changed, encrypted or packed in a way it does not know."""


class Part(NamedTuple):
    """One episode of a file."""

    name: str
    begin: int  # its first row in the file
    end: int | None  # None: to the end of every array


def open_npz(path: Path, asked: Asked) -> Source:
    """A folder of episodes, or a single file.

    Raises:
        LspFastError: there is none, or one cannot be read; it names the file.
    """
    paths = [path] if path.is_file() else sorted(path.glob("*.npz"))
    if not paths:
        raise LspFastError(f"{path} holds no .npz file; name a folder of episodes")
    beside = (path.parent if path.is_file() else path) / ABOUT_FILE
    told: Any = {}
    try:
        told = json.loads(beside.read_text())
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise LspFastError(f"{beside} cannot be read: {error}; delete it where it is not ours") from error
    about = About.read(told)
    actions = asked.actions
    if actions == "auto":
        actions = "led_to" if about.action_repeat else _told_apart(paths, asked)

    def episodes(notes: Notes) -> Iterator[Recording]:
        for file in paths:
            with _Arrays(file) as arrays:
                for part in _parts(arrays):
                    recording = _recording(arrays, part, actions, asked, notes)
                    if about.extras and EXTRAS in arrays.names:  # others mean by that name what they like
                        recording = recording._replace(extras=arrays[EXTRAS][part.begin : part.end])
                    yield recording

    ours = (np.array([-1.0]), np.array([1.0])) if about.action_repeat else None
    return Source(".npz", about, ours, episodes)


def write_npz(folder: Path, stored: Stored) -> None:
    """A file an episode, into a folder that is there.

    Keys: `observation` [T, O] float32 or `image` [T, H, W, C] uint8; `action` [T, A], the one that led to the row;
    `reward`, `discount` [T]; `is_first`, `is_last`, `is_terminal` [T]; `extras` [T, X], if any. Names end with the
    number of steps, as Dreamer's do.
    """
    key, shape = FEATURES[0], (-1,)
    if not isinstance(stored.observation, int):
        key, shape = FRAMES, stored.observation
    for number, rows in enumerate(stored.episodes()):
        count = len(rows.reward)
        arrays = {
            key: rows.observation.reshape(count, *shape),
            "action": rows.action,
            "reward": rows.reward,
            "discount": 1 - rows.terminal,
            "is_first": rows.is_first,
            "is_last": np.arange(count) == count - 1,
            "is_terminal": rows.terminal > 0,
        }
        if stored.extras_dim:
            arrays[EXTRAS] = rows.extras
        np.savez_compressed(folder / f"episode-{number:06d}-{count - 1}.npz", **arrays)  # pyright: ignore[reportArgumentType]
    (folder / ABOUT_FILE).write_text(json.dumps(stored.about.told(), indent=2) + "\n")


class _Arrays:
    """A file's arrays, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _Arrays:
        try:
            loaded = np.load(self.path, allow_pickle=False)
        except DAMAGED as error:
            raise LspFastError(f"{self.path} is not a readable .npz file: {error}") from error
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise LspFastError(f"{self.path} is one array and not an .npz file of several")
        self._file = loaded
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def names(self) -> list[str]:
        return list(self._file.files)

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            array = self._file[name]
        except DAMAGED as error:
            raise LspFastError(f"{self.path}: {name} cannot be read: {error}") from error
        if array.ndim == 0:
            raise LspFastError(f"{self.path}: {name} is one number; an entry a row is needed")
        return array

    def one_of(self, candidates: Iterable[str], remedy: str) -> str:
        """The first of some names that is there."""
        for name in candidates:
            if name in self.names:
                return name
        wanted = " or ".join(candidates)
        raise LspFastError(f"{self.path}: {wanted} is missing; there are {', '.join(sorted(self.names))}. {remedy}")


def _parts(arrays: _Arrays) -> list[Part]:
    """The episodes of a file: one, unless `is_first` marks more."""
    name = f"episode {arrays.path.name}"
    if FIRST not in arrays.names:
        return [Part(name, 0, None)]
    first = np.flatnonzero(arrays[FIRST]).tolist()
    if first[:1] != [0]:
        raise LspFastError(
            f"{name}: {FIRST} of row 0 is false: the file begins in the middle of an episode; join the pieces of each "
            "episode in one file"
        )
    if len(first) == 1:
        return [Part(name, 0, None)]
    return [Part(f"{name} (from row {b})", b, e) for b, e in zip(first, [*first[1:], None], strict=True)]


def _told_apart(paths: list[Path], asked: Asked) -> str:
    """Whether rows have the action that led to them, or the one taken in them: where there are as many actions as
    observations one of each episode is none, and then zero: the first, or the last.

    Raises:
        LspFastError: it cannot be told.
    """
    first = last = True
    for path in paths:
        with _Arrays(path) as arrays:
            action = arrays[arrays.one_of(ACTION, "Every episode needs its actions")]
            if path is paths[0]:
                _, observation = _observation(arrays, Part("", 0, None), asked)
                if len(observation) == len(action) + 1:
                    return "taken"
            for part in _parts(arrays):
                own = action[part.begin : part.end]
                if len(own) > 1:
                    first, last = first and not own[0].any(), last and not own[-1].any()
    if first != last:
        return "led_to" if first else "taken"
    zero = "the first and the last action of every episode are zero" if first else "neither is always zero"
    raise LspFastError(
        f"{paths[0].parent}: a row may have the action that led to its observation, and the first is then zero, or the "
        f"one that was taken in it, and the last is: {zero}; say which it is by --actions led_to (as Dreamer's) or "
        "--actions taken"
    )


def _recording(arrays: _Arrays, part: Part, actions: str, asked: Asked, notes: Notes) -> Recording:
    act = arrays.one_of(ACTION, "Every episode needs its actions")
    earn = arrays.one_of(REWARD, "Every episode needs its rewards")
    names, observation = _observation(arrays, part, asked)
    notes.say(f"observations are {' + '.join(names)}")
    action, reward = arrays[act][part.begin : part.end], arrays[earn][part.begin : part.end]
    rows, at = len(observation), part.begin
    places = Place("+".join(names), at), Place(act, at), Place(earn, at)
    if actions == "led_to":
        if len(action) and action[0].any() and asked.actions == "auto":
            raise LspFastError(
                f"{part.name}: {act} of row {at} is not zero, though nothing led to an episode's first row"
            )
        if len(reward) and reward[0].any():
            raise LspFastError(
                f"{part.name}: {earn} of row {at} is {reward[0]:g}, though nothing led to an episode's first row; with "
                "--actions taken a row has the action that was taken in it, and its reward"
            )
        action, reward = action[1:], reward[1:]
        places = places[0], Place(act, at + 1), Place(earn, at + 1)
        notes.say("a row has the action that led to it")
    else:
        notes.say("a row has the action that was taken in it")
        if len(action) == len(reward) == rows and rows:
            notes.say("the action and the reward of an episode's last row lead nowhere: they are left out")
            action, reward = action[:-1], reward[:-1]
    return Recording(part.name, observation, action, reward, _terminated(arrays, part, asked, rows), places)


def _observation(arrays: _Arrays, part: Part, asked: Asked) -> tuple[list[str], np.ndarray]:
    """Names and values: fields that are asked for, that are usual, or that the task has."""
    entries = list(asked.target.entries or ()) if asked.target else []
    if asked.observation:
        names = [arrays.one_of([name], "Name others by --observation") for name in asked.observation]
    elif not any(name in arrays.names for name in FEATURES) and entries and set(entries) <= set(arrays.names):
        names = entries
    else:
        names = [arrays.one_of((*FEATURES, FRAMES), "Name the fields by --observation")]
    found = [arrays[name][part.begin : part.end] for name in names]
    if len(found) == 1:
        return names, found[0]
    for name, array in zip(names, found, strict=True):
        if len(array) != len(found[0]):
            raise LspFastError(f"{part.name}: {name} has {len(array)} entries and {names[0]} {len(found[0])}")
    return names, np.concatenate([array.reshape(len(array), -1) for array in found], 1)


def _terminated(arrays: _Arrays, part: Part, asked: Asked, rows: int) -> bool:
    """Whether the last row is a true end; another row must not be."""
    names = [name for name in (*TERMINAL, DISCOUNT) if name in arrays.names]
    if not names:
        if asked.never_ends:
            return False
        arrays.one_of((TERMINAL[0], DISCOUNT), "Where the task ends by its time alone, give --never-ends")
    said: dict[str, bool] = {}
    for name in names:
        array = arrays[name][part.begin : part.end].reshape(-1)
        ends = np.flatnonzero(array == 0 if name == DISCOUNT else array)
        if len(ends) and ends[0] < len(array) - 1:
            what = "is 0" if name == DISCOUNT else "is true"
            raise LspFastError(
                f"{part.name}: {name} of row {part.begin + ends[0]} {what}, and the episode goes on to row "
                f"{part.begin + len(array) - 1}"
            )
        said[name] = len(ends) > 0
    if len(set(said.values())) > 1:
        one, other = (next(name for name, value in said.items() if value is wanted) for wanted in (True, False))
        raise LspFastError(f"{part.name}: {one} says that the task ended in the last row, {other} that it did not")
    return any(said.values())
