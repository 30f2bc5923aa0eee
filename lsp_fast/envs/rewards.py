"""Rewards as formulas of plain numbers: one statement for whoever computes them.

dm_control's path and the direct one call them as they are; `lsp_fast.experience.relabel` has numba compile them.
"""


def ramp(x: float, lower: float, margin: float, at_margin: float) -> float:
    """dm_control's `tolerance` with bounds (lower, inf) and the linear sigmoid, to the same bits: 1 from `lower` on,
    falling to `at_margin` at `margin` below it, and 0 beyond where that line ends."""
    if x >= lower:
        return 1.0
    if margin == 0:
        return 0.0
    fall = (lower - x) / margin * (1 - at_margin)
    return 1 - fall if fall < 1 else 0.0


WALK_SPEED = 0.5
"""Metres a second forward, from which on walking in the arena is fully rewarded."""


def standing(upright: float) -> float:
    """(1 + upright) / 2, with the torso's z-axis on the world's."""
    return ramp(upright, 1.0, 2.0, 0.0)


def walking(upright: float, speed: float) -> float:
    """Of the arena's walk tasks: standing, times moving forward (half of it is paid for standing still)."""
    return standing(upright) * ramp(speed, WALK_SPEED, WALK_SPEED, 0.5)


def reaching(upright: float, distance: float, within: float, margin: float) -> float:
    """Of the arena's reach tasks: standing, times being within that horizontal distance of the target, or near it."""
    return standing(upright) * ramp(-distance, -within, margin, 0.0)
