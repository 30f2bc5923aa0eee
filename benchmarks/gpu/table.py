"""What was found, as JSON and as text."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import platform
import statistics
import subprocess
from pathlib import Path
from typing import Any

import torch

from gpu.variants import Variant

ROOT = Path(__file__).resolve().parents[2]


def row(v: Variant, flops: int, peaks: dict[str, float], eager: dict[str, float]) -> dict[str, Any]:
    """A variant as plain values."""
    seconds = statistics.median(v.seconds) if v.seconds else None
    base = eager.get(v.precision)
    return {
        "work": v.work,
        "variant": v.name,
        "precision": v.precision,
        "failure": v.failure,
        "ms": None if seconds is None else seconds * 1e3,
        "samples_ms": [s * 1e3 for s in v.seconds],
        "spread": (max(v.seconds) - min(v.seconds)) / seconds if seconds else None,
        "ratio_to_eager": base / seconds if seconds and base else None,
        "flop": flops,
        "flop_per_s": flops / seconds if seconds else None,
        "share_of_peak": flops / seconds / peaks[v.precision] if seconds else None,
        "peak_memory_bytes": v.peak_memory,
        # JSON has no infinity.
        "errors": {k: e if math.isfinite(e) else str(e) for k, e in v.errors.items()},
    }


def table(rows: list[dict[str, Any]], title: str) -> str:
    """One line a row; a failed one says why."""
    head = f"{'work':7} {'variant':24} {'prec':5} {'ms':>9} {'spread':>7} {'x eager':>8} {'TFLOP/s':>8} {'peak':>6} "
    lines = [title, head + f"{'MiB':>7} {'error':>8}"]
    for r in rows:
        start = f"{r['work']:7} {r['variant']:24} {r['precision']:5}"
        if r["ms"] is None:
            lines.append(f"{start} {r['failure']}")
            continue
        ratio = f"{r['ratio_to_eager']:.2f}" if r["ratio_to_eager"] else "-"
        memory = f"{r['peak_memory_bytes'] / 2**20:.0f}" if r["peak_memory_bytes"] is not None else "-"
        hidden = ("same_elites", "undecided", "wrong_elites")
        worst = max((float(e) for k, e in r["errors"].items() if not k.endswith(hidden)), default=0.0)
        lines.append(
            f"{start} {r['ms']:9.3f} {r['spread']:7.1%} {ratio:>8} {r['flop_per_s'] / 1e12:8.3f} "
            f"{r['share_of_peak']:6.1%} {memory:>7} {worst:8.1e}"
        )
    return "\n".join(lines)


def environment(device: torch.device) -> dict[str, Any]:
    """What the figures depend on besides the code."""
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = None
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "capability": list(torch.cuda.get_device_capability()) if cuda else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "revision": revision(),
    }


def revision() -> str:
    """The commit, with a mark where the tree differs from it."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=ROOT, capture_output=True, text=True
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
