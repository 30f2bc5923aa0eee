"""How long a run will still take, once it is known what an update costs."""

from __future__ import annotations

from typing import NamedTuple

WARM_UP = 5
"""Updates that also compile, allocate or are captured: they tell nothing of the others."""
FIRST = 10
"""Updates after these that an estimate needs."""


class Mark(NamedTuple):
    """Where a run stood at some time."""

    seconds: float
    updates: int
    env_steps: int


def seconds_left(begun: Mark, now: Mark, updates_left: int, steps_left: int, step_seconds: float) -> float | None:
    """Seconds to the run's end at the rate since `begun`; None where there were too few updates to tell.

    Args:
        begun, now: marks of one start, both while learning.
        updates_left: all that are still to be made, those that are owed among them.
        steps_left: environment steps to the end.
        step_seconds: that an environment step takes by itself; it counts only where none was made since `begun`. Else
            the updates' time holds that of the steps between them.
    """
    made = now.updates - begun.updates
    if made < FIRST:
        return None
    seconds = (now.seconds - begun.seconds) / made * updates_left
    return seconds + steps_left * step_seconds if now.env_steps == begun.env_steps else seconds


def duration_text(seconds: float) -> str:
    """A time for people: 40 s, 12 min, 2 h 10 min, 9 days."""
    minutes = round(seconds / 60)
    if seconds < 59.5:
        return f"{max(round(seconds), 1)} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{round(seconds / 86400)} days"
