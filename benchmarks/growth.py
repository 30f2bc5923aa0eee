"""How a plan's time grows with start states, candidates, horizon and threads, at the paper's sizes.

    python benchmarks/growth.py --out benchmarks/results/growth_cpu.json      # the plot goes beside it as PNG

Every point is the median of interleaved samples; points that take seconds get fewer of them. Noise is Philox's for C++
and drawn beforehand for eager PyTorch, which is not timed where its noise would not fit or it would take a minute.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from measure import machine
from peers.problem import DIMS, detached

from lsp_fast import backends
from lsp_fast.agents import ImaginationAgent
from lsp_fast.config import make_config
from lsp_fast.noise import Noise
from lsp_fast.ops.types import PlanKey, State
from lsp_fast.planning.planner import Planner

STARTS = (1, 2, 3, 6, 12, 24, 48, 96, 192, 384, 768, 1536, 5000)
CANDIDATES = (1, 4, 8, 16, 17, 32, 48, 64, 128, 256)
HORIZONS = (2, 5, 10, 20, 40, 80, 120)
FIXED = 48
"""Start states where something else grows."""


def variants(starts: int, eager_until: int, **overrides: Any) -> dict[str, Callable[[], object]]:
    """One plan of those sizes, each way."""
    c = make_config("paper", device="cpu", **overrides)
    agent = ImaginationAgent(*DIMS, c)
    noise = Noise(0)
    start = State(noise.normal("s", starts, c.model.stoch), noise.normal("h", starts, c.model.deter).tanh())
    weights, cpp = detached(agent.plan_weights()), backends.get("cpp")
    p = c.planner
    key = PlanKey(torch.tensor([1, 2]), p.iterations, p.candidates, c.behavior.horizon, True, False)
    reference = Planner(c, lambda: weights, backends.REFERENCE)
    prior, rules = reference.prior(start), reference.rules
    found: dict[str, Callable[[], object]] = {
        "C++": lambda: cpp.plan(start, weights, key, prior, rules),
        "C++ bf16": lambda: cpp.plan(start, weights, key, prior, rules._replace(precision="bf16")),
    }
    if starts <= eager_until:
        drawn = reference.draw(noise, "plan", starts, sample=True)
        found["eager"] = lambda: reference.search(start, drawn)
    return found


def measured(point: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median seconds of each variant, sampled in turns."""
    times: dict[str, list[float]] = {name: [] for name in point}
    began = time.perf_counter()
    while len(times["C++"]) < 5 and (len(times["C++"]) < 2 or time.perf_counter() - began < seconds):
        for name, variant in point.items():
            start = time.perf_counter()
            variant()
            times[name].append(time.perf_counter() - start)
        if time.perf_counter() - began > 3 * seconds:
            break
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=10, help="about so long a point")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    grows: dict[str, list[tuple[int, dict[str, Any]]]] = {
        "start states": [(n, {"starts": n}) for n in STARTS],
        "candidates": [(g, {"planner__candidates": g, "planner__elites": min(4, g)}) for g in CANDIDATES],
        "horizon": [(h, {"behavior__horizon": h, "skill__length": min(h, 10)}) for h in HORIZONS],
        "threads": [(t, {"threads": t}) for t in range(1, options.threads + 1)],
    }
    rows = []
    for axis, points in grows.items():
        for at, changed in points:
            sizes = {"starts": FIXED, **changed}
            torch.set_num_threads(sizes.pop("threads", options.threads))
            times = measured(variants(eager_until=192, **sizes), options.seconds)
            torch.set_num_threads(options.threads)
            rows.append({"axis": axis, "at": at, "seconds": times})
            print(f"{axis:14} {at:6}  " + "  ".join(f"{k} {1e3 * v:10.2f} ms" for k, v in times.items()), flush=True)
    report = {**machine(), "threads": options.threads, "fixed_starts": FIXED, "rows": rows}
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    draw(rows, options.out.with_suffix(".png"))


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds over each axis, both logarithmic; a plan that costs the same per candidate step is a straight line."""
    axes_names = list(dict.fromkeys(row["axis"] for row in rows))
    figure = Figure(figsize=(3.6 * len(axes_names), 3.2), layout="constrained")
    axes = figure.subplots(1, len(axes_names), squeeze=False)[0]
    for name, axis in zip(axes_names, axes, strict=True):
        points = [row for row in rows if row["axis"] == name]
        for variant in ("eager", "C++", "C++ bf16"):
            shown = [(row["at"], row["seconds"][variant]) for row in points if variant in row["seconds"]]
            axis.loglog(*zip(*shown, strict=True), marker="o", markersize=3, label=variant)
        axis.set_xlabel(name)
        axis.set_title(name)
    axes[0].set_ylabel("seconds a plan")
    axes[0].legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
