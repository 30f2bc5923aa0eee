"""Pictures from scores: rows of task, method, seed, xs (environment steps) and ys (returns)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def read_scores(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """All rows of several scores.json files."""
    return [row for path in paths for row in json.loads(Path(path).read_text())]


def learning_curves(rows: Iterable[Mapping[str, Any]], path: Path) -> Path:
    """Draw one panel per task and one colour per method: each seed thin, their mean bold where they share xs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        panels[row["task"]][row["method"]].append(row)
    figure = Figure(figsize=(5.5 * max(len(panels), 1), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, max(len(panels), 1), squeeze=False)[0]
    for axis, (task, methods) in zip(axes, sorted(panels.items()), strict=False):
        for color, (method, seeds) in enumerate(sorted(methods.items())):
            for row in seeds:
                axis.plot(row["xs"], row["ys"], color=f"C{color}", alpha=1.0 if len(seeds) == 1 else 0.35, linewidth=1)
            xs, mean = mean_curve(seeds)
            label = f"{method} ({len(seeds)} seed{'s' * (len(seeds) > 1)})"
            axis.plot(xs, mean, color=f"C{color}", linewidth=2, marker="o", markersize=3, label=label)
        axis.set(title=task, xlabel="environment steps", ylabel="evaluation return", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=120)
    return path


def mean_curve(seeds: Iterable[Mapping[str, Any]]) -> tuple[list[int], np.ndarray]:
    """The xs that all rows share, and their mean there; a score that was not finite (null) makes a gap."""
    curves = [dict(zip(row["xs"], np.array(row["ys"], float), strict=True)) for row in seeds]
    xs = sorted(set.intersection(*(set(curve) for curve in curves)))
    return xs, np.array([np.mean([curve[x] for curve in curves]) for x in xs])
