"""What is observed of a gymnasium environment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ObservationConfig:
    """What of a `gym:` task's own observation is seen; dm_control's tasks say so themselves."""

    vectors: str = "auto"
    """Entries of a Dict whose numbers are observed, their names divided by commas: position,velocity. auto: all that
    are no frames; all: frames, too, a number for each of their values."""
    frame: str = "auto"
    """Entry that is the frame, where `obs` sees one. auto: the first that looks like one, else what the environment
    draws; render: what it draws."""
    resize: bool = False
    """Make frames of other sizes 64x64, each pixel the mean over its area."""
