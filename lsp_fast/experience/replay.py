"""Replay: completed episodes in memory, windows of them as training batches (SPEC §1, §2); `replay_files` has the disk.

A row is one observation with the action and the reward that led to it. An episode of n agent steps has n + 1 rows; the
first is the reset's, with zero action and reward. Rows of completed episodes lie one after the other in a ring, oldest
first, so that a window is a run of rows in which only the ring's end needs care.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from lsp_fast.errors import CheckpointError, LspFastError
from lsp_fast.experience.replay_files import ReplayFiles, Rows, empty_rows
from lsp_fast.njit import njit
from lsp_fast.observed import Observed, Plain

FIRST_ROWS = 4096
PIECE_ROWS = 1 << 14
"""Rows that are looked at together where all are: what is computed of them stays small beside the replay."""


class Batch(NamedTuple):
    """Windows of L rows, B of them."""

    observation: np.ndarray  # [B, L, O] float32; or [B, L, *shape] of another type, as `Observed.shape` says
    action: np.ndarray  # [B, L, A] float32, the one that led to the observation
    reward: np.ndarray  # [B, L] float32
    terminal: np.ndarray  # [B, L] float32, 1 at a true termination (a time limit is none)
    is_first: np.ndarray  # [B, L] bool, true where an episode begins

    @classmethod
    def empty(
        cls, batch: int, length: int, observation: Sequence[int], action_dim: int, dtype: DTypeLike = np.float32
    ) -> Batch:
        """Uninitialised arrays of that size, for observations of that shape and type."""
        return cls(
            np.empty((batch, length, *observation), dtype),
            np.empty((batch, length, action_dim), np.float32),
            *(np.empty((batch, length), kind) for kind in (np.float32, np.float32, bool)),
        )


class SegmentBatch(NamedTuple):
    """B stretches of at most c agent steps; the first row of each is the state that it begins in."""

    observation: np.ndarray  # [B, c + 1, O]
    action: np.ndarray  # [B, c + 1, A] float32, the one that led to the observation
    reward: np.ndarray  # [B, c + 1] float32
    terminal: np.ndarray  # [B, c + 1] float32
    is_first: np.ndarray  # [B, c + 1] bool
    extras: np.ndarray  # [B, c + 1, X] float32
    steps: np.ndarray  # [B] int64, agent steps: c, or fewer where the episode ended before


@njit()
def _gather(starts, length, oldest, live, ring, rows, out):  # pragma: no cover - compiled
    """Copy the windows that begin `starts` [B] rows after the oldest one, which lies at `oldest` in the ring.

    A window that passes the newest of the `live` rows goes on at the oldest.
    """
    for b in range(starts.shape[0]):
        for t in range(length):
            row = oldest + (starts[b] + t) % live
            if row >= ring:
                row -= ring
            for i in range(rows.observation.shape[1]):
                out.observation[b, t, i] = rows.observation[row, i]
            for i in range(rows.action.shape[1]):
                out.action[b, t, i] = rows.action[row, i]
            out.reward[b, t] = rows.reward[row]
            out.terminal[b, t] = rows.terminal[row]
            out.is_first[b, t] = rows.is_first[row]


class Replay:
    """Episodes of one task from `num_envs` environments.

    Running episodes are kept apart and can be sampled only once they have ended. When `capacity` rows are full, the
    oldest whole episodes give way. Memory grows with what is stored: (O + A + 2) × 4 + 1 bytes a row.
    """

    def __init__(
        self,
        capacity: int,
        observation: Plain | Sequence[int],
        action_dim: int,
        num_envs: int = 1,
        *,
        dtype: DTypeLike = np.float32,
        extras_dim: int = 0,
    ) -> None:
        """
        Args:
            capacity: in rows of completed episodes.
            observation: O, or the shape of an observation, or both, as of `Observed.plain`.
            action_dim: A.
            num_envs: environments that add rows.
            dtype: of observations, float32 or uint8; of both it is uint8.
            extras_dim: X, numbers kept with a row for task or agent; `sample` leaves them out.
        """
        self.observed = Observed.of(observation)
        shape = self.observed.shape
        if min(capacity, *shape, action_dim, num_envs) < 1:
            raise ValueError("capacity, observation_dim, action_dim and num_envs must be at least 1")
        self.capacity = capacity
        self.observation_shape, self.dtype = shape, np.dtype(np.uint8 if self.observed.both else dtype)
        self.observation_dim = math.prod(shape)
        self.action_dim, self.extras_dim = action_dim, extras_dim
        self.num_envs = num_envs
        self._running: list[list[tuple[np.ndarray, np.ndarray, float, bool, bool, np.ndarray]]]
        self._running = [[] for _ in range(num_envs)]
        self._files = ReplayFiles(self._empty(0))
        self._unsaved_rows = 0  # how many of the newest completed rows the files lack
        self._clear()

    def _clear(self) -> None:
        self._rows = self._empty(0)
        self._oldest = 0  # where in the ring the oldest episode begins
        self._live = 0  # rows of completed episodes
        self._lengths: deque[int] = deque()
        self._table: tuple[np.ndarray, np.ndarray] | None = None  # lengths and starts, made when a sample needs them

    @property
    def num_episodes(self) -> int:
        """Completed episodes that can be sampled."""
        return len(self._lengths)

    @property
    def num_rows(self) -> int:
        """Rows of the completed episodes."""
        return self._live

    def add(
        self,
        env: int,
        observation: np.ndarray,
        action: np.ndarray,
        reward: float,
        terminated: bool,
        is_first: bool,
        is_last: bool,
        extras: np.ndarray | None = None,
    ) -> None:
        """Add a row to the running episode of environment `env`.

        Args:
            env: below num_envs.
            observation: of the replay's shape.
            action: [A], the one that led to the observation; zero where is_first.
            reward: that came with it; zero where is_first.
            terminated: the task ended here, not its time.
            is_first: begins an episode; one that was running is dropped, for it never ended.
            is_last: ends the episode, which is then completed and can be sampled.
            extras: [X], where X is not 0.

        Raises:
            ValueError: a shape is wrong, or an episode does not begin with is_first.
            LspFastError: a number is not finite, or the episode alone is longer than the capacity.
        """
        observation, action = np.array(observation, self.dtype), np.array(action, np.float32)
        extras = np.empty(0, np.float32) if extras is None else np.array(extras, np.float32)
        if observation.shape != self.observation_shape or action.shape != (self.action_dim,):
            raise ValueError(
                f"a row has shapes {self.observation_shape} and ({self.action_dim},), "
                f"not {observation.shape} and {action.shape}"
            )
        if extras.shape != (self.extras_dim,):
            raise ValueError(f"a row has {self.extras_dim} extras, not {extras.shape}")
        episode = self._running[env]
        if is_first:
            episode.clear()
        elif not episode:
            raise ValueError(f"the episode of environment {env} does not begin with is_first")
        if len(episode) == self.capacity:
            raise LspFastError(f"an episode is longer than the replay's capacity of {self.capacity} rows; raise it")
        numbers = self.observed.numbers(observation)
        if not (math.isfinite(reward) and np.isfinite(numbers).all() and np.isfinite(action).all()):
            # A single one would end up in every weight.
            raise LspFastError(
                f"environment {env} gave a reward or observation that is not finite, {len(episode)} agent steps into "
                f"its episode: reward {reward}, {_told('observation', numbers)}, action {action.tolist()}"
            )
        episode.append((observation.reshape(-1), action, reward, terminated, is_first, extras))
        if is_last:
            self._complete(Rows(*(np.asarray(column) for column in zip(*episode, strict=True))))
            episode.clear()

    def append(self, episode: Rows) -> None:
        """Add a completed episode that was recorded elsewhere; the running ones are not touched.

        Args:
            episode: of the replay's widths and types, is_first in its first row alone; copied.

        Raises:
            ValueError: a width or a type is another one, or is_first says that it is not one episode.
            LspFastError: the episode alone is longer than the capacity.
        """
        for name, array, own in zip(Rows._fields, episode, self._rows, strict=True):
            if array.shape != (len(episode.reward), *own.shape[1:]) or array.dtype != own.dtype:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, a row's is {own.dtype} {own.shape[1:]}")
        if not np.array_equal(np.flatnonzero(episode.is_first), [0]):
            raise ValueError("an episode has is_first in its first row alone")
        if len(episode.reward) > self.capacity:
            raise LspFastError(f"an episode is longer than the replay's capacity of {self.capacity} rows; raise it")
        self._complete(episode)

    def sample(self, rng: np.random.Generator, batch: int, length: int, out: Batch | None = None) -> Batch:
        """`batch` windows of `length` rows: an episode uniformly, then its start uniformly, the window inside it.

        An episode of fewer rows is taken from its first one, and the window runs on into the episodes completed after
        it (after the newest comes the oldest); is_first marks each beginning.

        Args:
            rng: drawn from twice, whatever is stored.
            out: C-contiguous arrays to write into and return, of exactly the batch's shapes and types.

        Raises:
            LspFastError: no episode has been completed.
            ValueError: `out` does not fit, or batch or length is below 1.
        """
        if batch < 1 or length < 1:
            raise ValueError(f"batch and length must be at least 1, not {batch} and {length}")
        self._require_episode()
        if out is None:
            out = Batch.empty(batch, length, self.observation_shape, self.action_dim, self.dtype)
        else:
            self._check_out(out, batch, length)
        episodes, offsets = self.draw(rng, batch, length)
        starts = self._episode_table()[1][episodes] + offsets
        flat = out._replace(observation=out.observation.reshape(batch, length, -1))
        _gather(starts, length, self._oldest, self._live, self.capacity, self._rows, flat)
        return out

    def segments(self, rng: np.random.Generator, batch: int, steps: int) -> SegmentBatch:
        """`batch` stretches of `steps` agent steps that begin at multiples of `steps` in their episodes, each of all
        such equally likely. An episode's last one is as short as it comes: most terminations lie there. Its last row is
        then repeated, without the reward.

        Raises:
            LspFastError: no episode has been completed.
        """
        self._require_episode()
        lengths, firsts = self._episode_table()
        ends = np.cumsum(-(-(lengths - 1) // steps))  # segments up to the end of each episode
        drawn = rng.integers(ends[-1], size=batch)
        episodes = np.searchsorted(ends, drawn, side="right")
        begins = (drawn - np.concatenate([[0], ends])[episodes]) * steps
        real = np.minimum(lengths[episodes] - 1 - begins, steps)
        offsets = np.arange(steps + 1)
        starts = self._oldest + firsts[episodes] + begins
        indices = (starts[:, None] + np.minimum(offsets, real[:, None])) % self.capacity
        rows = Rows(*(array[indices] for array in self._rows))
        rows.reward[offsets > real[:, None]] = 0
        return SegmentBatch(*rows, real)

    def episodes(self) -> Iterator[Rows]:
        """The completed episodes, oldest first, each a copy."""
        for length, first in zip(*self._episode_table(), strict=True):
            indices = np.arange(self._oldest + first, self._oldest + first + length) % self.capacity
            yield Rows(*(array[indices] for array in self._rows))

    def relabel(self, rewards: Callable[[Rows], np.ndarray]) -> None:
        """Replace the rewards of all completed rows by a function of each row, which is given some of them at a time,
        oldest first, and must not change them.

        What a folder holds of them is written anew by the next `save`, which must be into another one.
        """
        for piece in self._newest(self._live, PIECE_ROWS):
            piece.reward[...] = rewards(piece)
        self._files.folder = None

    def draw(self, rng: np.random.Generator, batch: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """What `sample` takes: each window's episode (0 is the oldest that is held) and its first row there, [B]."""
        lengths, _ = self._episode_table()
        episodes = rng.integers(len(lengths), size=batch)
        return episodes, rng.integers(np.maximum(lengths[episodes] - length, 0) + 1)

    def observation_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (population) of each observed number over the completed rows: float32 [O]; of
        both, of the numbers beside the frame.

        Raises:
            LspFastError: no episode has been completed.
        """
        self._require_episode()
        # Summed in float64, some rows at a time: what is computed of them stays small.
        pieces = [self.observed.numbers(piece.observation) for piece in self._newest(self._live, PIECE_ROWS)]
        mean = sum(piece.sum(0, dtype=np.float64) for piece in pieces) / self._live
        # Centred first: E[x²] - mean² would lose everything for an entry that hardly varies.
        variance = sum(((piece - mean) ** 2).sum(0) for piece in pieces) / self._live
        return np.asarray(mean, np.float32), np.sqrt(variance).astype(np.float32)

    def save(self, folder: Path) -> dict[str, Any]:
        """Append the completed episodes that the folder lacks, and make them durable.

        One raw little-endian file per key, rows one after the other; rows that gave way to newer ones stay in the
        files. The first save into a folder (unless `load` read it) begins its files anew. One that failed half-way,
        say on a full disk, may be repeated. Running episodes are not saved.

        Returns:
            What a checkpoint stores as JSON and `load` takes. Until it is stored, the state before stays valid.

        Raises:
            CheckpointError: a file that earlier saves wrote is gone or shorter.
            OSError: the disk's.
        """
        folder, files = Path(folder).resolve(), self._files
        if folder != files.folder:
            files.begin(folder)
            self._unsaved_rows = self._live
        files.append(list(self._newest(self._unsaved_rows)))
        self._unsaved_rows = 0
        return files.state(list(self._lengths))

    def load(self, folder: Path, state: dict[str, Any], *, borrow: bool = False) -> None:
        """Replace everything by what `state` says. The files stay as they are; the next `save` cuts rows that were
        appended after it.

        Running episodes are dropped: the environments begin new ones. With a smaller capacity than the state was
        taken with, the newest episodes that fit are kept. With `borrow` the folder is another run's: nothing in it is
        changed, and the next `save` writes all into its own.

        Raises:
            CheckpointError: a file is missing, shorter than the state says, or not the one that was saved; or the
                state is of another version or another task. The replay is unchanged then.
        """
        folder, files = Path(folder).resolve(), self._files
        rows, lengths, checksums = files.read_state(folder, state)
        while sum(lengths) > self.capacity:
            lengths.pop(0)
        live = sum(lengths)
        loaded = self._empty(live)
        files.read(folder, rows, checksums, loaded)
        firsts = np.cumsum([0, *lengths])[:-1]
        if not np.array_equal(np.flatnonzero(loaded.is_first), firsts):
            raise CheckpointError(f"{files.path(folder, 'is_first')} does not fit the checkpoint's episodes")
        if borrow:
            files.folder = None
        else:
            files.adopt(folder, rows, checksums)
        self._clear()
        self._rows, self._live, self._lengths = loaded, live, deque(lengths)
        for episode in self._running:
            episode.clear()
        self._unsaved_rows = 0

    def _empty(self, rows: int) -> Rows:
        return empty_rows(rows, self.observation_dim, self.action_dim, self.extras_dim, self.dtype)

    def _complete(self, episode: Rows) -> None:
        """Append a completed episode, evicting the oldest ones where it needs their room."""
        count = len(episode.reward)
        while self._live + count > self.capacity:
            evicted = self._lengths.popleft()
            self._live -= evicted
            self._oldest = (self._oldest + evicted) % self.capacity
        self._unsaved_rows = min(self._unsaved_rows, self._live) + count
        self._reserve(self._oldest + self._live + count)
        begin = (self._oldest + self._live) % self.capacity
        until_wrap = min(count, self.capacity - begin)
        for stored, new in zip(self._rows, episode, strict=True):
            stored[begin : begin + until_wrap] = new[:until_wrap]
            stored[: count - until_wrap] = new[until_wrap:]
        self._live += count
        self._lengths.append(count)
        self._table = None

    def _reserve(self, rows: int) -> None:
        """Grow the storage, at least by doubling; it wraps round only once it has the full capacity."""
        held = len(self._rows.reward)
        if rows <= held or held == self.capacity:
            return
        grown = self._empty(min(self.capacity, max(rows, 2 * held, FIRST_ROWS)))
        for new, old in zip(grown, self._rows, strict=True):
            new[:held] = old
        self._rows = grown

    def _newest(self, count: int, longest: int | None = None) -> Iterator[Rows]:
        """The newest `count` rows of completed episodes, as views of at most `longest` rows that lie side by side."""
        first, end = self._oldest + self._live - count, self._oldest + self._live
        while first < end:
            begin = first % self.capacity
            length = min(end - first, self.capacity - begin, longest or count)
            yield Rows(*(array[begin : begin + length] for array in self._rows))
            first += length

    def _episode_table(self) -> tuple[np.ndarray, np.ndarray]:
        """Each episode's length and its start after the oldest row, int64 [N]."""
        if self._table is None:
            lengths = np.fromiter(self._lengths, np.int64, len(self._lengths))
            self._table = lengths, np.cumsum(lengths) - lengths
        return self._table

    def _require_episode(self) -> None:
        if not self._lengths:
            running = sum(max(len(episode) - 1, 0) for episode in self._running)
            raise LspFastError(
                f"replay holds no completed episode ({running} agent steps of running ones); windows lie within "
                f"completed episodes, so collect until one has ended: 1000 env steps of a suite task in each "
                f"environment, {1000 * self.num_envs} in all with {self.num_envs} (raise prefill)"
            )

    def _check_out(self, out: Batch, batch: int, length: int) -> None:
        widths = (self.observation_shape, (self.action_dim,), (), (), ())
        for name, array, width, row in zip(Batch._fields, out, widths, self._rows[:5], strict=True):
            shape = (batch, length, *width)
            if array.shape != shape or array.dtype != row.dtype or not array.flags.c_contiguous:
                raise ValueError(f"out.{name} must be a C-contiguous {row.dtype} array of shape {shape}")


def _told(name: str, array: np.ndarray) -> str:
    """An array in a message: its numbers, unless it is a picture."""
    return f"{name} {array.tolist()}" if array.ndim == 1 else f"{name} of shape {array.shape}"
