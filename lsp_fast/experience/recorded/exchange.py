"""From a recording to a replay's folder and back, whatever the format."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lsp_fast.errors import LspFastError
from lsp_fast.experience.recorded import folder, hdf5, minari, npz
from lsp_fast.experience.recorded.form import About, Asked, Notes, Source, Stored
from lsp_fast.experience.recorded.rows import Converter
from lsp_fast.experience.replay_files import Rows
from lsp_fast.files import PART, check_writable

HDF5 = ".hdf5", ".h5"
FOR = {
    "observation": (".npz",),
    "actions": (".npz",),
    "never_ends": (".npz", "HDF5"),
    "episode_length": ("HDF5",),
}
"""Which formats an option means something to."""


@dataclass(frozen=True)
class Summary:
    """What was read or written."""

    out: Path
    about: About
    observation: int | tuple[int, ...]
    action_dim: int
    lengths: list[int]
    """Rows of each episode."""
    returns: list[float]
    """Summed rewards of each episode."""
    terminated: int
    """Episodes that the task ended."""
    notes: list[str]

    def __str__(self) -> str:
        steps = sum(self.lengths) - len(self.lengths)
        shape = self.observation if isinstance(self.observation, int) else "x".join(map(str, self.observation))
        low, mean, high = min(self.returns), float(np.mean(self.returns)), max(self.returns)
        return "\n".join(
            [
                f"episodes      {len(self.lengths)}, of which the task ended {self.terminated}",
                f"agent steps   {steps}, each of {self.about.action_repeat} environment steps",
                f"observations  {shape}, actions {self.action_dim}",
                f"returns       {mean:.1f} on average, {low:.1f} to {high:.1f}",
                *(f"note          {note}" for note in self.notes),
            ]
        )


def open_recording(path: Path, asked: Asked) -> Source:
    """Whatever lies there, by what it looks like.

    Raises:
        LspFastError: nothing that can be read.
    """
    if path.is_file():
        if path.suffix in HDF5:
            return hdf5.open_hdf5(path, asked)
        if path.suffix == ".npz":
            return npz.open_npz(path, asked)
        raise LspFastError(
            f"{path} is no recording: name an .hdf5 or .npz file, a folder of .npz files, or of Minari's"
        )
    if not path.is_dir():
        raise LspFastError(f"{path} does not exist; name a recording (`minari download NAME` fetches one of Minari's)")
    if folder.holds(path):
        raise LspFastError(f"{path} holds an imported replay already; train --data takes it as it is")
    if minari.data_folder(path) is not None:
        return minari.open_minari(path, asked)
    if any(path.glob("*.npz")):
        return npz.open_npz(path, asked)
    raise LspFastError(
        f"{path} holds no recording: neither .npz files nor a dataset of Minari's; an HDF5 file is named itself"
    )


def converted(path: Path, source: Source, asked: Asked, notes: Notes) -> tuple[Converter, About]:
    """The rows of an opened recording, and what is known of them.

    Raises:
        LspFastError: it is of another task, nobody says how many environment steps lie between its rows, or an option
            is of another format.
    """
    about, target = source.about, asked.target
    for name, kinds in FOR.items():
        if source.kind not in kinds and getattr(asked, name) != getattr(Asked, name):
            option = "--" + name.replace("_", "-")
            raise LspFastError(f"{option} is for {' and '.join(kinds)}, and {path} is of {source.kind}; leave it out")
    repeat = asked.action_repeat or about.action_repeat
    if asked.action_repeat < 0 or not repeat:
        raise LspFastError(
            f"{path} does not say how many environment steps lie between two of its rows; give --action-repeat "
            "(1 where every step was recorded)"
        )
    if target is not None and about.task not in ("", target.task):
        raise LspFastError(f"{path} is of {about.task}, not of {target.task}: its rewards are that task's")
    converter = Converter(source, asked, notes)
    own = (target.low, target.high) if target is not None else tuple(converter.units)
    low, high = (tuple(float(x) for x in bound) for bound in own)
    return converter, dataclasses.replace(
        about,
        task=target.task if target is not None else about.task,
        action_repeat=repeat * asked.merge,
        action_low=about.action_low or low,
        action_high=about.action_high or high,
    )


def import_recording(path: Path, out: Path, asked: Asked) -> Summary:
    """Write a recording as a replay's folder, which `train --data` takes. An error leaves nothing behind.

    Raises:
        LspFastError: what does not fit, with episode, field and row; or `out` holds something.
        OSError: the disk's.
    """
    check_free(out)
    notes = Notes()
    converter, about = converted(path, open_recording(path, asked), asked, notes)
    seen = _Seen(converter)
    with _whole(out) as part:
        stored = folder.write_folder(part, iter(seen), lambda: _shapes(converter), about, str(path.resolve()))
    return seen.summary(out, stored, notes)


def export_replay(stored: Stored, out: Path, write: Callable[[Path, Stored], object]) -> Summary:
    """Write a replay as others read it. An error leaves nothing behind.

    Args:
        write: into a folder that is there, as `npz.write_npz` does.

    Raises:
        LspFastError: there is no episode, `out` holds something, or the disk fails.
    """
    check_free(out)
    if not stored.lengths:
        raise LspFastError(f"{stored.name} holds no completed episode yet; let the run go on")
    seen = _Seen(())
    with _whole(out) as part:
        write(part, stored._replace(episodes=lambda: iter(dataclasses.replace(seen, of=stored.episodes()))))
    return seen.summary(out, stored, Notes())


@dataclass
class _Seen:
    """Passes episodes on, and remembers what a summary says of them."""

    of: Any
    returns: list[float] = dataclasses.field(default_factory=list)
    ends: list[bool] = dataclasses.field(default_factory=list)

    def __iter__(self) -> Iterator[Rows]:
        for rows in self.of:
            self.returns.append(float(rows.reward.sum(dtype=np.float64)))
            self.ends.append(bool(rows.terminal[-1]))
            yield rows

    def summary(self, out: Path, stored: Stored, notes: Notes) -> Summary:
        return Summary(
            out, stored.about, stored.observation, stored.action_dim, stored.lengths, self.returns, sum(self.ends),
            notes.lines(),
        )  # fmt: skip


def _shapes(converter: Converter) -> int | tuple[int, ...]:
    assert converter.shapes is not None
    return converter.shapes.observation


def check_free(out: Path) -> None:
    """Refuse early a folder that holds something, or that cannot be written."""
    if not out.name:  # the folder that one is in, which a new one would take away
        raise LspFastError(f"{out} cannot be replaced; name a new folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise LspFastError(f"{out} is there already; name a new folder")
    check_writable(out.parent)


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes `out` once all is there, or goes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + PART)
    if part.exists():
        raise LspFastError(f"{part} is there: another command writes it, or one was killed; delete it")
    part.mkdir()
    try:
        yield part
        part.replace(out)
    except OSError as error:
        if error.filename is not None:
            raise
        reason = os.strerror(error.errno) if error.errno else str(error)  # h5py names no file
        raise LspFastError(f"{out} cannot be written: {reason}; make room, or name another folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
