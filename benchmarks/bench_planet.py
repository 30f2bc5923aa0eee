"""Acting by planned actions (PlaNet's CEM, 1000 candidates, 10 iterations): the same variants as a plan of skills."""

from __future__ import annotations

from collections.abc import Iterator

from bench_plan import plans
from measure import Work


def works() -> Iterator[Work]:
    """A plan from one state, as every agent step of planet takes."""
    for preset in ("cpu", "paper"):
        yield plans(preset, 1, "planet")
