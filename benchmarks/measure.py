"""Side-by-side timing: every variant of one piece of work in one run, samples taken in turns, ratios of medians.

A bench_*.py module has a function `works()` that yields `Work`s; each has checked that its variants agree before it
hands them out. `benchmarks/run.py` prints them as one table, `pytest benchmarks` hands them to pytest-benchmark.
"""

from __future__ import annotations

import atexit
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from lsp_fast.backends import cpp

HERE = Path(__file__).parent


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


def compare(work: Work, *, samples: int = 7, min_seconds: float = 0.05) -> list[Row]:
    """Time every variant, in turns; a sample repeats the call until it fills `min_seconds`."""
    repeats: dict[str, int] = {}
    for name, variant in work.variants.items():
        seconds_of(variant, 1)  # compile, warm up
        repeats[name] = max(1, round(min_seconds / max(seconds_of(variant, 1), 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in work.variants}
    peaks: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(samples):
        for precision, values in peaks.items():
            if work.operations is not None:
                values.append(cpp.load().peak(precision, torch.get_num_threads()))
        for name, variant in work.variants.items():
            times[name].append(1e3 * seconds_of(variant, repeats[name]) / repeats[name] / work.calls)
    medians = {name: statistics.median(values) for name, values in times.items()}

    def share(name: str) -> float | None:
        if work.operations is None:
            return None
        peak = statistics.median(peaks["bf16" if "bf16" in name else "fp32"])
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


def seconds_of(variant: Callable[[], object], repeats: int) -> float:
    """Seconds that so many calls take."""
    if isinstance(variant, Process):
        return variant.seconds(repeats)
    began = time.perf_counter()
    for _ in range(repeats):
        variant()
    return time.perf_counter() - began


class Process:
    """A peer of bench_plan in a process of its own, which sleeps until it is timed.

    Raises:
        RuntimeError: the peer cannot be had, with its reason.
    """

    def __init__(self, kind: str, *arguments: object, environment: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "peers.process", kind, str(torch.get_num_threads()), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=HERE,
            env={**os.environ, "PYTHONPATH": str(HERE.parent), **(environment or {})},
        )
        atexit.register(self.process.kill)
        self.values: list = self._answer("values")

    def _answer(self, name: str):
        assert self.process.stdout is not None
        answer = json.loads(self.process.stdout.readline() or '{"error": "it ended without an answer"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer[name]

    def seconds(self, repeats: int) -> float:
        """Seconds that so many calls take there."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{repeats}\n")
        self.process.stdin.flush()
        return self._answer("seconds")

    def __call__(self) -> None:
        self.seconds(1)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


def peer(kind: str, *arguments: object) -> Process | str:
    """The peer of that kind, or why it cannot be had."""
    environment = {}
    if kind == "eager_mkl":
        library = mkl_shim()
        if library is None:
            return "no C compiler"
        environment["LD_PRELOAD"] = str(library)
    try:
        return Process(kind, *arguments, environment=environment)
    except RuntimeError as error:
        return str(error)


@functools.cache
def mkl_shim() -> Path | None:
    """A library that, loaded before MKL, makes it take its fast path on processors that are not Intel's, too."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "shim.c").write_text("int mkl_serv_intel_cpu_true(void) { return 1; }\n")
    library = folder / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "shim.c"], check=True)
    return library


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
