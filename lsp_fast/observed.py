"""What is observed: numbers, a frame, or both in one row of bytes.

An observation is one array on its whole way from the environment to the world model. Numbers are float32 [V], a frame
is uint8 [H, W, 3]. Both are uint8 [H * W * 3 + 4 * V]: the frame's bytes, then those of the numbers. So the driver, the
replay and its files, a batch and a CUDA graph's inputs know of one array, whatever is observed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Plain = int | tuple[int, ...] | tuple[tuple[int, ...], int]
"""Sizes as a checkpoint holds them: V; the shape of frames; or both, ((H, W, 3), V)."""

FLOAT = 4  # bytes


class Observed(NamedTuple):
    """Sizes of an observation.

    Attributes:
        vector: V, float32 numbers.
        frame: (H, W, 3) of a uint8 frame; None where none is observed.
    """

    vector: int = 0
    frame: tuple[int, ...] | None = None

    @classmethod
    def of(cls, sizes: int | Sequence[Any]) -> Observed:
        """What `plain` gives."""
        if isinstance(sizes, int):
            return cls(sizes)
        if len(sizes) == 2 and not isinstance(sizes[0], int):
            return cls(int(sizes[1]), tuple(sizes[0]))
        return cls(0, tuple(sizes))

    @property
    def plain(self) -> Plain:
        """As plain numbers, for a checkpoint."""
        if self.frame is None:
            return self.vector
        return (self.frame, self.vector) if self.vector else self.frame

    @property
    def both(self) -> bool:
        """Whether there are numbers beside the frame."""
        return bool(self.vector) and self.frame is not None

    @property
    def pixels(self) -> int:
        """Bytes of the frame: H * W * 3; 0 without one."""
        return 0 if self.frame is None else math.prod(self.frame)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one observation."""
        if self.frame is None:
            return (self.vector,)
        return (self.pixels + FLOAT * self.vector,) if self.vector else self.frame

    @property
    def dtype(self) -> np.dtype:
        """Of an observation."""
        return np.dtype(np.float32 if self.frame is None else np.uint8)

    def pack(self, parts: Mapping[str, Any]) -> np.ndarray:
        """Both as one array: {"frame": uint8 [..., H, W, 3], "vector": [..., V]} -> uint8 [..., H * W * 3 + 4 * V].

        Raises:
            ValueError: a part is missing, or has another shape or type; or it is not both that is observed.
        """
        if self.frame is None or not self.vector:
            raise ValueError(f"what is observed is one array {list(self.shape)}, not {', '.join(map(str, parts))}")
        if set(parts) != {"frame", "vector"}:
            raise ValueError(f"an observation of both has a frame and a vector, not {', '.join(map(str, parts))}")
        frame, vector = np.asarray(parts["frame"]), np.asarray(parts["vector"], np.float32)
        rows = vector.shape[:-1]
        if frame.dtype != np.uint8 or frame.shape != (*rows, *self.frame) or vector.shape != (*rows, self.vector):
            raise ValueError(
                f"an observation of both has a frame uint8 {[*rows, *self.frame]} and a vector {[*rows, self.vector]}, "
                f"not {frame.dtype} {list(frame.shape)} and {list(vector.shape)}"
            )
        numbers = np.ascontiguousarray(vector).view(np.uint8)
        return np.concatenate([frame.reshape(*rows, self.pixels), numbers], axis=-1)

    def frames(self, observations: np.ndarray) -> np.ndarray:
        """The frames in observations [..., *shape]: uint8 [..., H, W, 3], a view."""
        assert self.frame is not None
        if not self.vector:
            return observations
        return observations[..., : self.pixels].reshape(*observations.shape[:-1], *self.frame)

    def numbers(self, observations: np.ndarray) -> np.ndarray:
        """The numbers in observations [..., *shape]: float32 [..., V], a view."""
        return observations[..., self.pixels :].view(np.float32) if self.both else observations
