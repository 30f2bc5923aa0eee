"""What of a gymnasium environment's observation is seen: which entries are numbers, and which is the frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Space, flatdim

from lsp_fast.errors import LspFastError
from lsp_fast.observed import Observed

SIDE = 64
"""Width and height of a frame, as the world model takes it."""
SMALLEST = 16
"""Fewer pixels a side are a board, whose squares are numbers."""
CHANNELS = (1, 3)
"""Grey, and colours."""
RENDER = "render"
"""The name of the frame that the environment draws."""
BLIND = "set --obs pixels, which sees the frame alone"
"""The remedy where there are no numbers."""
WHOLE = ""
"""The name of the only entry of what is no Dict."""


def is_picture(space: Space) -> bool:
    """Whether these are bytes with at least two sides of `SMALLEST`: one frame, or several upon each other."""
    shape = space.shape or ()
    return isinstance(space, Box) and space.dtype == np.uint8 and sum(side >= SMALLEST for side in shape) >= 2


def hides_picture(space: Space) -> bool:
    """Whether there is a picture within it, where it cannot be named."""
    inner = getattr(space, "spaces", ())  # of a Dict, a Tuple or a OneOf
    entries = inner.values() if isinstance(inner, dict) else inner
    return any(is_picture(entry) or hides_picture(entry) for entry in entries)


def entries_of(space: Space) -> dict[str, Space]:
    """A Dict's entries by their names; of anything else the one there is."""
    return dict(space.spaces) if isinstance(space, Dict) else {WHOLE: space}


def drawn(space: Space, frame: str) -> bool:
    """Whether the frame that is asked for is one that the environment must draw, as it observes none of its own."""
    entries = entries_of(space)
    none = not any(map(is_picture, entries.values()))
    return frame == RENDER or (frame == "auto" and none)


class Observing:
    """Which entries are seen, and how they become an observation.

    Args:
        space: the environment's own.
        task: names it in messages.
        obs, vectors, frame, resize: as of `lsp_fast.envs.make`.

    Attributes:
        numbers: the space whose entries are flattened; None where only the frame is seen.
        frame: the entry that is the frame; `RENDER` where the environment draws it, None where none is seen.
        observed: sizes of an observation.

    Raises:
        LspFastError: something that is not there, or a frame of another size.
    """

    def __init__(self, space: Space, task: str, obs: str, vectors: str, frame: str, resize: bool) -> None:
        self._task, self._resize, self._entries = task, resize, entries_of(space)
        self._check_names(obs, vectors, frame)
        self.frame = None if obs == "features" else self._choose_frame(space, frame)
        names = [] if obs == "pixels" else self._choose_numbers(vectors)
        self.numbers: Space | None = None
        if names:
            # Several pairs, not a dictionary, whose entries gymnasium would sort.
            chosen = names == list(self._entries)
            self.numbers = space if chosen else Dict([(name, self._entries[name]) for name in names])  # type: ignore[arg-type]
        self.observed = Observed(
            sum(self._width(name) for name in names), None if self.frame is None else (SIDE, SIDE, 3)
        )
        self._names = names
        if names and not self.observed.vector:
            raise LspFastError(f"{task}: no entry that is observed has a number in it: {self._told()}; {BLIND}")

    def __str__(self) -> str:
        """What is seen, and what is not."""
        seen = []
        if self.frame is not None:
            own = "" if self.frame in (WHOLE, RENDER) else f" {self.frame}"
            size = "x".join(map(str, self._entries[self.frame].shape or ())) if self.frame != RENDER else "drawn"
            seen.append(f"the frame{own} ({size}{f', as {SIDE}x{SIDE}' if self._resize else ''})")
        seen += [f"{name or 'numbers'} ({self._width(name)})" for name in self._names]
        rest = [name for name in self._entries if name not in self._names and name != self.frame]
        left = [name or "its own observation" for name in rest]
        return f"{self._task}: observed are {', '.join(seen)}" + (f"; left out: {', '.join(left)}" if left else "")

    @property
    def chosen(self) -> bool:
        """Whether there was anything to choose."""
        return self.frame is not None or WHOLE not in self._entries

    def picture(self, given: Any) -> np.ndarray:
        """The frame in what the environment observed or drew: uint8 [64, 64, 3], a new array.

        Grey ones have three equal channels, and those whose channels come first are turned round.

        Raises:
            LspFastError: it is no frame, or one of another size.
        """
        array = np.asarray(given)
        turned = self._turned(array) if array.dtype == np.uint8 else None
        if turned is None:
            raise LspFastError(
                f"{self._frame_name()} is {array.dtype} of shape {array.shape}; a frame is uint8 (0 to 255) with one "
                "grey channel or three colours"
            )
        if turned.shape[:2] == (SIDE, SIDE):
            return np.array(turned, order="C")
        self._check_size(turned.shape)
        from PIL import Image

        # A box filter is the mean over a pixel's area.
        return np.array(Image.fromarray(np.ascontiguousarray(turned)).resize((SIDE, SIDE), Image.Resampling.BOX))

    def _choose_frame(self, space: Space, frame: str) -> str:
        """The entry that is the frame, or `RENDER`."""
        if drawn(space, frame):
            return RENDER
        if frame == "auto":
            frame = next(name for name, entry in self._entries.items() if is_picture(entry))
        elif frame not in self._entries or frame == WHOLE:
            raise self._missing("observation.frame", frame, "name one of them, or auto, or render for what it draws")
        self.frame, entry = frame, self._entries[frame]
        fits = isinstance(entry, Box) and entry.dtype == np.uint8
        turned = self._turned(np.empty(entry.shape or (), np.uint8)) if fits else None
        if turned is None:
            raise LspFastError(
                f"{self._frame_name()} is {entry}; a frame is uint8 (0 to 255) with one grey channel or three colours: "
                "wrap the environment so that it gives that (frames upon each other are not needed, as the model "
                "remembers), or name another --observation.frame"
            )
        self._check_size(turned.shape)
        return frame

    def _choose_numbers(self, vectors: str) -> list[str]:
        """The entries that are numbers."""
        if vectors not in ("auto", "all"):
            names = [name.strip() for name in vectors.split(",")]
            for name in names:
                if name not in self._entries or name == WHOLE:
                    raise self._missing("observation.vectors", name, "name some of them, divided by commas, or auto")
            return list(dict.fromkeys(names))
        names = [
            name
            for name, entry in self._entries.items()
            if name != self.frame and (vectors == "all" or not is_picture(entry))
        ]
        if names:
            return names
        if self.frame is not None:
            raise LspFastError(f"{self._task} observes nothing beside its frame: {BLIND}")
        if not self._entries:
            raise LspFastError(f"{self._task} observes nothing at all: {BLIND}")
        width = sum(map(flatdim, self._entries.values()))
        raise LspFastError(
            f"{self._task} observes frames alone: set --obs pixels, which sees one; or --observation.vectors all, "
            f"which takes their {width} values as so many numbers"
        )

    def _check_names(self, obs: str, vectors: str, frame: str) -> None:
        """Raise where an entry cannot be chosen, or a frame lies too deep to be."""
        if obs != "features":
            for name in self._entries:
                if name in (RENDER, "auto"):
                    raise LspFastError(
                        f"{self._task}: --observation.frame means something else by {name!r}; give that entry another "
                        "name in a wrapper"
                    )
        none = not any(map(is_picture, self._entries.values()))
        wants_numbers = obs != "pixels" and vectors == "auto"
        wants_frame = obs != "features" and frame == "auto" and none
        for name, entry in self._entries.items():
            if (wants_numbers or wants_frame) and hides_picture(entry):
                remedy = "lift them there in a wrapper"
                if wants_numbers and len(self._entries) > 1:
                    remedy += ", or name the numbers by --observation.vectors"
                if wants_frame:
                    remedy += ", or set --observation.frame render for what it draws"
                raise LspFastError(
                    f"{self._task}: {self._named(name)} holds frames, which can be chosen only where they are entries "
                    f"of the Dict itself: {remedy}"
                )

    def _named(self, name: str) -> str:
        return f"the entry {name!r}" if name else "its observation"

    def _told(self) -> str:
        """All entries with their shapes, or what they are."""
        told = (f"{name} {entry if entry.shape is None else entry.shape}" for name, entry in self._entries.items())
        return ", ".join(map(str.strip, told))

    def _missing(self, option: str, name: str, remedy: str) -> LspFastError:
        if WHOLE in self._entries:
            return LspFastError(
                f"{option} = {name!r}: {self._task} observes no Dict, so that there is nothing to name; leave it out"
            )
        return LspFastError(f"{option} = {name!r}: {self._task} observes {self._told()}; {remedy}")

    def _check_size(self, shape: tuple[int, ...]) -> None:
        if shape[:2] != (SIDE, SIDE) and not self._resize:
            raise LspFastError(
                f"{self._frame_name()} has {shape[0]}x{shape[1]} pixels, and the model sees {SIDE}x{SIDE}: set "
                "--observation.resize, which makes it so, or have the environment give that size"
            )

    def _frame_name(self) -> str:
        if self.frame == RENDER:
            return f"{self._task}: what render() draws"
        return f"{self._task}: the frame{f' {self.frame!r}' if self.frame else ''}"

    def _width(self, name: str) -> int:
        """Numbers of an entry."""
        try:
            return flatdim(self._entries[name])
        except (NotImplementedError, ValueError) as error:
            raise LspFastError(
                f"{self._task}: {self._named(name)} is {self._entries[name]}, which has no fixed number of values; "
                + ("name the others by --observation.vectors" if name else "give a Box or a Dict in a wrapper")
            ) from error

    @staticmethod
    def _turned(frame: np.ndarray) -> np.ndarray | None:
        """[H, W], [H, W, 1 or 3] or [1 or 3, H, W] as [H, W, 3], a view; None of any other shape."""
        if frame.ndim == 2:
            frame = frame[..., None]
        if frame.ndim == 3 and frame.shape[-1] not in CHANNELS and frame.shape[0] in CHANNELS:
            frame = np.moveaxis(frame, 0, -1)
        if frame.ndim != 3 or frame.shape[-1] not in CHANNELS:
            return None
        return np.broadcast_to(frame, (*frame.shape[:2], 3))
