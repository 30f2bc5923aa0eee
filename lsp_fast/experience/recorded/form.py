"""A recorded episode, as every format gives and takes it, and what else is known of a recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np

from lsp_fast import envs
from lsp_fast.envs.gym import PREFIX
from lsp_fast.errors import LspFastError
from lsp_fast.experience.replay_files import Rows

ABOUT = "lsp_fast"
"""Under this name an export keeps what a format has no place for: `About.told`."""


class Place(NamedTuple):
    """Where an array of a recording comes from, for messages."""

    field: str  # as the recording calls it
    row: int = 0  # of the array's first entry there


class Recording(NamedTuple):
    """An episode of n steps in its recording's own units: whatever its numbers are, `rows` checks them."""

    name: str  # "episode 7 of a/b.hdf5", for messages
    observation: np.ndarray  # [n + 1, ...]
    action: np.ndarray  # [n, ...], that led from one observation to the next
    reward: np.ndarray  # [n], that came with it
    terminated: bool  # the task ended with the last observation, not its time
    places: tuple[Place, Place, Place]  # of observation, action, reward
    extras: np.ndarray | None = None  # [n + 1, X] float32, if the recording is an export of ours


@dataclass(frozen=True)
class About:
    """What is known of a recording. Empty and 0: nobody says."""

    task: str = ""
    action_repeat: int = 0
    """Environment steps between two rows."""
    extras: str = ""
    """What the numbers beside a row are: `relabel`, or HIRO's kind of goals."""
    algorithm: str = ""
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    """What the environment takes for actions of -1 and 1."""

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def read(cls, told: Any) -> About:
        """What `told` gave; of anything else what can be understood."""
        told = told if isinstance(told, dict) else {}
        default = cls()
        values: dict[str, Any] = {}
        for name, old in vars(default).items():
            value = told.get(name, old)
            value = tuple(value) if isinstance(value, list) else value
            values[name] = value if type(value) is type(old) else old
        return cls(**values)


class Target(NamedTuple):
    """The task that a recording is of, as its environment knows it."""

    task: str
    observation: int  # its features' width; 0 where it has none
    action_dim: int
    low: np.ndarray  # float64 [A], what the environment takes for -1
    high: np.ndarray  # and for 1
    entries: dict[str, int] | None  # names and widths of dm_control's features, in their order
    space: gymnasium.Space | None  # gymnasium's observations before they are flattened


def target(task: str) -> Target:
    """Of a task's name; its environment is made and closed.

    Raises:
        LspFastError: it cannot be made.
    """
    env = environment(task, 1)
    try:
        low, high = (bound.reshape(-1) for bound in env.action_bounds)
        entries, space = getattr(env, "entries", None), getattr(env, "own_space", None)
        seen = env.observation_space.shape
        width = seen[0] if len(seen) == 1 else 0
        return Target(task, width, env.action_space.shape[0], low, high, entries, space)
    finally:
        env.close()


def environment(task: str, action_repeat: int, frames: bool = False) -> Any:
    """A task's environment, whose bounds and entries are asked for.

    Of a `gym:` task it observes frames where those were recorded, or where the task has nothing else. dm_control's
    would need OpenGL for them.

    Raises:
        LspFastError: it cannot be made.
    """
    ways: list[dict[str, Any]] = [{"obs": "features"}]
    if task.startswith(PREFIX):
        ways.insert(0 if frames else 1, {"obs": "pixels", "resize": True})
    first = None
    for way in ways:
        try:
            return envs.make(task, action_repeat=action_repeat, **way)
        except LspFastError as error:
            first = first or error
    assert first is not None
    raise first


@dataclass(frozen=True)
class Asked:
    """What a recording may not say itself. Empty and 0: it does, or its format's custom does."""

    target: Target | None = None
    action_repeat: int = 0
    """Environment steps between two rows of the recording."""
    merge: int = 1
    """Rows that make one agent step."""
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    """Bounds of the recorded actions; one number stands for all."""
    clip_actions: bool = False
    """Cut what lies outside, as environments do."""
    observation: tuple[str, ...] = ()
    """Fields that make up the observation, one after the other."""
    actions: Literal["auto", "led_to", "taken"] = "auto"
    """Whether a row of .npz has the action that led to its observation, or the one taken in it."""
    never_ends: bool = False
    """There is no field for terminations, as the task ends by its time alone."""
    episode_length: int = 0
    """Steps of every episode of an HDF5 file that marks no ends."""


@dataclass
class Notes:
    """What a user should know of what was done with a recording."""

    said: list[str] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)

    def say(self, text: str) -> None:
        """Once, however often it comes."""
        if text not in self.said:
            self.said.append(text)

    def lines(self) -> list[str]:
        """All of it."""
        return [*self.said, *(f"{count} {text}" for text, count in self.counted.items())]


class Source(NamedTuple):
    """A recording that was opened."""

    kind: str  # "Minari", for messages
    about: About
    bounds: tuple[np.ndarray, np.ndarray] | None  # of its actions, where it says them
    episodes: Callable[[Notes], Iterator[Recording]]  # in their order, one in memory at a time


class Stored(NamedTuple):
    """A replay on disk: an import's or a run's."""

    name: str  # for messages
    about: About
    observation: int | tuple[int, ...]
    action_dim: int
    extras_dim: int
    lengths: list[int]  # rows of each episode
    episodes: Callable[[], Iterator[Rows]]  # oldest first, one in memory at a time
