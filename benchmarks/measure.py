"""Side-by-side timing: every variant of one piece of work in one run, samples taken in turns, ratios of medians.

A bench_*.py module has a function `works()` that yields `Work`s; each has checked that its variants agree before it
hands them out. `benchmarks/run.py` prints them as one table, `pytest benchmarks` hands them to pytest-benchmark.
"""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Work:
    """One piece of work and the ways to do it."""

    name: str
    baseline: str
    """The variant that ratios compare with."""
    variants: Mapping[str, Callable[[], object]]
    calls: float = 1.0
    """What one call counts for: milliseconds are shown for one of so many."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Variants that cannot be had here, and why."""


@dataclass(frozen=True)
class Row:
    """What was measured of one variant."""

    work: str
    variant: str
    ms: float | None
    """Median milliseconds."""
    ratio: float | None
    """The baseline's median over this one's: above 1 is faster."""
    spread: float | None
    """(slowest - fastest sample) / median; differences below it are noise."""
    samples_ms: list[float]
    missing: str | None = None


def compare(work: Work, *, samples: int = 7, min_seconds: float = 0.05) -> list[Row]:
    """Time every variant, in turns; a sample repeats the call until it fills `min_seconds`."""
    repeats: dict[str, int] = {}
    for name, variant in work.variants.items():
        variant()  # compile, warm up
        began = time.perf_counter()
        variant()
        repeats[name] = max(1, round(min_seconds / max(time.perf_counter() - began, 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in work.variants}
    for _ in range(samples):
        for name, variant in work.variants.items():
            began = time.perf_counter()
            for _ in range(repeats[name]):
                variant()
            times[name].append(1e3 * (time.perf_counter() - began) / repeats[name] / work.calls)
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows = [
        Row(
            work.name,
            name,
            medians[name],
            medians[work.baseline] / medians[name],
            (max(values) - min(values)) / medians[name],
            values,
        )
        for name, values in times.items()
    ]
    return rows + [Row(work.name, name, None, None, None, [], reason) for name, reason in work.missing.items()]


def table(rows: Iterable[Row]) -> str:
    """The rows as text, a blank line between pieces of work."""
    lines, before = [f"{'work':44} {'variant':22}{'ms':>11}{'ratio':>9}{'spread':>9}"], None
    for row in rows:
        if row.work != before:
            lines.append("")
        name, before = (row.work if row.work != before else ""), row.work
        if row.ms is None or row.ratio is None or row.spread is None:
            lines.append(f"{name:44} {row.variant:22}  not here: {row.missing}")
        else:
            lines.append(f"{name:44} {row.variant:22}{row.ms:11.4f}{row.ratio:8.2f}x{row.spread:8.0%}")
    return "\n".join(lines)


def write(path: Path, rows: Iterable[Row], **more: object) -> None:
    """The rows with the machine, versions and date as JSON."""
    path.write_text(json.dumps({**machine(), **more, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Where and with what the figures were measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "date": datetime.date.today().isoformat(),
        "processor": model,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "git": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
    }
