"""A recorded episode becomes rows of a replay: shapes, units, bounds and missing numbers are checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lsp_fast.envs.pixels import SIZE
from lsp_fast.errors import LspFastError
from lsp_fast.experience.recorded.form import Asked, Notes, Place, Recording, Source
from lsp_fast.experience.replay_files import Rows

SLACK = 1e-5
"""Share of an action's half range that it may lie beyond its bound: what float32 and a change of units lose."""
FRAME = SIZE, SIZE, 3


class Units(NamedTuple):
    """How recorded actions are mapped to [-1, 1]."""

    low: np.ndarray  # float64 [A] or [1]
    high: np.ndarray


class Shapes(NamedTuple):
    """What every episode of a recording must agree on."""

    observation: int | tuple[int, ...]
    action_dim: int
    extras_dim: int


def units(source: Source, asked: Asked) -> tuple[Units, str]:
    """The bounds of a recording's actions, and who says so.

    Raises:
        LspFastError: only one bound is asked for, or they do not bound anything.
    """
    if bool(asked.action_low) != bool(asked.action_high):
        raise LspFastError("--action-low and --action-high belong together: give both, or none")
    if asked.action_low:
        bounds, who = (np.array(asked.action_low), np.array(asked.action_high)), "as asked for"
    elif source.bounds is not None:
        bounds, who = source.bounds, f"as the {source.kind} recording says"
    elif source.kind == "HDF5" and asked.target is not None:
        bounds, who = (asked.target.low, asked.target.high), f"{asked.target.task}'s own"
    else:
        bounds, who = (np.array([-1.0]), np.array([1.0])), f"as nothing else is said: {source.kind} has no place for it"
    low, high = (np.asarray(x, np.float64).reshape(-1) for x in bounds)
    if low.shape != high.shape or not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise LspFastError(
            f"actions from {low.tolist()} to {high.tolist()} cannot be mapped to ±1; give finite bounds by "
            "--action-low and --action-high, one number or one for each entry"
        )
    return Units(low, high), who


class Converter:
    """Turns the episodes of one recording into rows.

    Args:
        source: opened.
        asked: what it does not say itself.
        notes: what was done is written here.

    Attributes:
        shapes: of the episodes; None before the first.
    """

    def __init__(self, source: Source, asked: Asked, notes: Notes) -> None:
        self.source, self.asked, self.notes = source, asked, notes
        self.units, who = units(source, asked)
        self.shapes: Shapes | None = None
        low, high = (", ".join(f"{x:g}" for x in np.unique(bound)) for bound in self.units)
        notes.say(f"actions from {low} to {high} ({who}) are mapped to -1 to 1")
        if asked.merge < 1:
            raise LspFastError(f"--merge {asked.merge}: must be at least 1")
        if asked.merge > 1:
            notes.say(f"{asked.merge} rows make one agent step: their rewards are summed")

    def peek(self) -> Shapes:
        """Of the first episode. What was noted of it is noted again when it comes."""
        next(iter(self))
        assert self.shapes is not None
        return self.shapes

    def __iter__(self) -> Iterator[Rows]:
        """
        Raises:
            LspFastError: it names episode, field and row.
        """
        for recording in self.source.episodes(self.notes):
            if len(recording.action) == 0:
                self.notes.counted["episodes without a step are left out"] += 1
                continue
            yield self._rows(recording)
        if self.shapes is None:
            raise LspFastError("the recording holds no episode with a step")

    def _rows(self, recording: Recording) -> Rows:
        n, (where, act, earn) = len(recording.action), recording.places
        name = recording.name
        for place, array, count in ((where, recording.observation, n + 1), (earn, recording.reward, n)):
            if len(array) != count:
                raise LspFastError(
                    f"{name}: {place.field} has {len(array)} entries where {n} entries of {act.field} ask for {count}; "
                    "an episode of n steps has n + 1 observations, n actions and n rewards"
                )
        observation = self._observation(name, where, recording.observation)
        action = self._action(name, act, _numbers(name, act, recording.action).reshape(n, -1))
        reward = _numbers(name, earn, recording.reward).astype(np.float64)
        if reward.size != n:
            raise LspFastError(f"{name}: {earn.field} has shape {reward.shape}; one number a step is needed")
        reward, extras = reward.reshape(n), self._extras(name, n, recording.extras)
        _float32(name, earn, reward)  # before rows are merged: what is wrong is named by its own row
        if (merge := self.asked.merge) > 1:
            observation = observation[[*range(0, n, merge), n]]
            action, reward = self._held(name, act, action), np.add.reduceat(reward, range(0, n, merge))
            n = len(action)
            extras = np.empty((n + 1, 0), np.float32)
        shape = observation.shape[1:]
        found = Shapes(shape if len(shape) > 1 else observation[0].size, action.shape[1], extras.shape[-1])
        self._agree(name, found)
        rows = Rows(
            observation.reshape(n + 1, -1),
            np.concatenate([np.zeros((1, found.action_dim), np.float32), action]),
            np.concatenate([np.zeros(1, np.float32), _float32(name, earn, reward)]),
            np.zeros(n + 1, np.float32),
            np.arange(n + 1) == 0,
            extras,
        )
        rows.terminal[-1] = recording.terminated
        return rows

    def _observation(self, name: str, place: Place, given: np.ndarray) -> np.ndarray:
        """uint8 frames [n + 1, H, W, C] as they are, all else flat as float32 [n + 1, O]."""
        given, target = _numbers(name, place, given), self.asked.target
        if given.dtype == np.uint8 and given.ndim == 4 and not (target and target.observation == given[0].size):
            return given
        if given.ndim == 4 and given.shape[1:] == FRAME and not (target and target.observation == given[0].size):
            raise LspFastError(
                f"{name}: {place.field} holds frames of {given.dtype}; they must be uint8, from 0 to 255"
            )
        return _float32(name, place, given).reshape(len(given), -1)

    def _extras(self, name: str, n: int, given: np.ndarray | None) -> np.ndarray:
        """The numbers beside the rows, where an export of ours says what they are: float32 [n + 1, X]."""
        if given is None or not self.source.about.extras:
            return np.empty((n + 1, 0), np.float32)
        place = Place("extras")
        given = _numbers(name, place, given)
        if given.ndim != 2 or len(given) != n + 1:
            raise LspFastError(f"{name}: extras has shape {given.shape}; {n + 1} rows of numbers are needed")
        return _float32(name, place, given)

    def _action(self, name: str, place: Place, given: np.ndarray) -> np.ndarray:
        """In [-1, 1], float32 [n, A]."""
        _finite(name, place, given)
        low, high = self.units
        if low.size not in (1, given.shape[1]):
            raise LspFastError(
                f"{name}: {place.field} has {given.shape[1]} numbers a step, and there are bounds for {low.size}; give "
                "--action-low and --action-high one number, or one for each"
            )
        centre, scale = (low + high) / 2, (high - low) / 2
        ours = (given.astype(np.float64) - centre) / scale
        if len(outside := np.argwhere(np.abs(ours) > 1 + SLACK)) and not self.asked.clip_actions:
            step, entry = outside[0]
            at = entry if low.size > 1 else 0
            raise LspFastError(
                f"{name}: {place.field}[{entry}] of row {place.row + step} is {given[step, entry]:g}, outside its "
                f"bounds {low[at]:g} to {high[at]:g}; give the recording's by --action-low and --action-high, or cut "
                "what lies outside by --clip-actions"
            )
        if len(outside):
            self.notes.counted["actions lay outside their bounds and are cut"] += len(np.unique(outside[:, 0]))
        return ours.clip(-1, 1).astype(np.float32)

    def _held(self, name: str, place: Place, action: np.ndarray) -> np.ndarray:
        """The actions of merged rows, which one agent step holds."""
        merge = self.asked.merge
        first = action[::merge]
        if len(other := np.argwhere((np.repeat(first, merge, 0)[: len(action)] != action).any(1))):
            step = int(other[0, 0])
            held = place.row + step // merge * merge
            raise LspFastError(
                f"{name}: {place.field} of row {place.row + step} is not that of row {held}, and "
                f"one agent step of {merge} rows holds one action; leave --merge out, and train with "
                "--collect.action-repeat as it was recorded"
            )
        return first

    def _agree(self, name: str, found: Shapes) -> None:
        """Refuse what is not of the task, or not of the episodes before."""
        target = self.asked.target
        if target is not None and self.shapes is None:
            wanted = target.observation if isinstance(found.observation, int) else FRAME
            if (found.observation, found.action_dim) != (wanted, target.action_dim):
                fields = ", or its fields by --observation" if self.source.kind == ".npz" else ""
                raise LspFastError(
                    f"{name}: observations of {found.observation} and actions of {found.action_dim} numbers, where "
                    f"{target.task} has {wanted} and {target.action_dim}; name the task that was recorded{fields}"
                )
        if self.shapes is None:
            self.shapes = found
        if found != self.shapes:
            raise LspFastError(
                f"{name}: observations of {found.observation}, actions of {found.action_dim} and {found.extras_dim} "
                f"other numbers; the episodes before have {self.shapes.observation}, {self.shapes.action_dim} and "
                f"{self.shapes.extras_dim}"
            )


def _numbers(name: str, place: Place, given: np.ndarray) -> np.ndarray:
    given = np.asarray(given)
    if given.dtype.kind not in "fiub":
        raise LspFastError(f"{name}: {place.field} holds {given.dtype}; numbers are needed")
    return given


def _float32(name: str, place: Place, given: np.ndarray) -> np.ndarray:
    """Rounded to float32, which has no room for some."""
    _finite(name, place, given)
    with np.errstate(over="ignore"):
        rounded = given.astype(np.float32)
    _finite(name, place, rounded, "does not fit into float32")
    return rounded


def _finite(name: str, place: Place, given: np.ndarray, why: str = "") -> None:
    """Refuse what would end up in every weight."""
    if given.dtype.kind == "f" and not np.isfinite(given).all():
        row, *entry = np.argwhere(~np.isfinite(given))[0].tolist()
        what = why or f"is {given[(row, *entry)]}; every number must be finite"
        raise LspFastError(f"{name}: {place.field}{entry or ''} of row {place.row + row} {what}")
