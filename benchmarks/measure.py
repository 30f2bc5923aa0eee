"""Side-by-side timing: every variant of one piece of work in one run, samples taken in turns, ratios of medians.

A bench_*.py module has a function `works()` that yields `Work`s; each has checked that its variants agree before it
hands them out. `benchmarks/run.py` prints them as one table, `pytest benchmarks` hands them to pytest-benchmark.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peers.process import Process

from lsp_fast.backends import cpp


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
    operations: float | None = None
    """Multiplications and additions of a call: shown as a share of what the processor can do at most."""
    mixed: Collection[str] = ()
    """Variants that multiply in two precisions, and so have no peak to be compared with."""


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
    peak: float | None = None
    """Operations a second as a share of the processor's measured peak, fp32's or bf16's."""


REST = 0.3
"""Seconds after which no variant's threads spin any more."""


def compare(work: Work, *, samples: int = 7, min_seconds: float = 0.2) -> list[Row]:
    """Time every variant, in turns; a sample repeats the call until it fills `min_seconds`, after a call that is not
    timed: what ran before has filled the caches, and its threads may still spin."""
    repeats: dict[str, int] = {}
    for name, variant in work.variants.items():
        seconds_of(variant, 1)  # compile, warm up
        repeats[name] = max(1, round(min_seconds / max(seconds_of(variant, 1), 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in work.variants}
    peaks: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(samples):
        if work.operations is not None:
            time.sleep(REST)
            for precision, values in peaks.items():
                values += [cpp.load().peak(precision, torch.get_num_threads()) for _ in range(3)]
        for name, variant in work.variants.items():
            seconds_of(variant, 1)
            times[name].append(1e3 * seconds_of(variant, repeats[name]) / repeats[name] / work.calls)
    medians = {name: statistics.median(values) for name, values in times.items()}

    def share(name: str) -> float | None:
        if work.operations is None or name in work.mixed:
            return None
        peak = max(peaks["bf16" if "bf16" in name else "fp32"])
        return work.operations / (1e-3 * medians[name] * peak)

    rows = [
        Row(
            work.name,
            name,
            medians[name],
            medians[work.baseline] / medians[name],
            (max(values) - min(values)) / medians[name],
            values,
            peak=share(name),
        )
        for name, values in times.items()
    ]
    return rows + [Row(work.name, name, None, None, None, [], reason) for name, reason in work.missing.items()]


def operation(
    name: str, eager: Any, native: Any, arguments: tuple, sizes: str, compiled: Callable[..., Any] | None = None
) -> Work:
    """An op on one set of arguments: C++ beside eager PyTorch and torch.compile, checked against each other."""
    expected = eager(*arguments)
    torch.testing.assert_close(native(*arguments), expected)
    variants = {"eager": lambda: eager(*arguments), "C++": lambda: native(*arguments)}
    missing = {}
    compiled = compiled or torch.compile(eager, dynamic=False)
    try:
        torch.testing.assert_close(compiled(*arguments), expected)
        variants["torch.compile"] = lambda: compiled(*arguments)
    except Exception as error:
        missing["torch.compile"] = str(error).splitlines()[0]
    return Work(f"{name} {sizes}", "eager", variants, missing=missing)


def seconds_of(variant: Callable[[], object], repeats: int) -> float:
    """Seconds that so many calls take."""
    if isinstance(variant, Process):
        return variant.seconds(repeats)
    began = time.perf_counter()
    for _ in range(repeats):
        variant()
    return time.perf_counter() - began


def table(rows: Iterable[Row]) -> str:
    """The rows as text, a blank line between pieces of work."""
    lines, before = [f"{'work':44} {'variant':24}{'ms':>11}{'ratio':>9}{'spread':>9}{'peak':>7}"], None
    for row in rows:
        if row.work != before:
            lines.append("")
        name, before = (row.work if row.work != before else ""), row.work
        if row.ms is None or row.ratio is None or row.spread is None:
            lines.append(f"{name:44} {row.variant:24}  not here: {row.missing}")
        else:
            peak = "" if row.peak is None else f"{row.peak:7.0%}"
            lines.append(f"{name:44} {row.variant:24}{row.ms:11.4f}{row.ratio:8.2f}x{row.spread:8.0%}{peak}")
    return "\n".join(lines)


def write(path: Path, rows: Iterable[Row], **more: object) -> None:
    """The rows with the machine, versions and date as JSON."""
    path.write_text(json.dumps({**machine(), **more, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


def version_of(package: str) -> str | None:
    """Of a peer, where it is installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """Where and with what the figures were measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "date": datetime.date.today().isoformat(),
        "processor": model,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version for name in ("jax", "envpool") if (version := version_of(name))},
        "git": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
    }
