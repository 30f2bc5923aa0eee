"""Draws what the method does, for the README: python benchmarks/method_picture.py [--out docs/images/method.png].

An illustration: the planner's panel is a cross-entropy method on a toy, with the paper's numbers of candidates, elites
and iterations.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch

CANDIDATES, ELITES, ITERATIONS, STEPS = 16, 4, 4, 10
INK, GREY, BLUE, ORANGE, GREEN = "#222222", "#b8b8b8", "#2f6fb5", "#e07b1a", "#3a8f4d"
BEST = np.array([0.9, 0.8])
"""The skill that the toy rewards most."""


def arrow(axis: Any, start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
    """An arrow between two points of a panel."""
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, **{"color": INK, **style}))


def box(axis: Any, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    """A rounded box around a text; (x, y) is its middle."""
    corner = (x - width / 2, y - height / 2)
    axis.add_patch(FancyBboxPatch(corner, width, height, boxstyle="round,pad=0.02", fc="white", ec=colour, lw=1.6))
    axis.text(x, y, text, ha="center", va="center", fontsize=9, color=INK)


def world_model(axis: Any) -> None:
    """Replayed episodes on the left, the model's states on the right."""
    for shift in (0.16, 0.08, 0.0):
        box(axis, 0.5 + shift, 1.5 + shift, 0.8, 0.7, "", GREY)
    axis.text(0.5, 1.5, "replayed\nepisodes", ha="center", va="center", fontsize=9)
    arrow(axis, (1.12, 1.5), (1.45, 1.5))
    for t, x in enumerate((1.75, 2.6, 3.45)):
        axis.add_patch(Ellipse((x, 1.5), 0.46, 0.56, fc="white", ec=BLUE, lw=1.6))
        axis.text(x, 1.5, f"$s_{t}$", ha="center", va="center", fontsize=11)
        arrow(axis, (x, 1.2), (x, 0.78), color=BLUE)
        if t:
            arrow(axis, (x - 0.6, 1.5), (x - 0.25, 1.5), color=BLUE)
            axis.text(x - 0.43, 1.86, f"$a_{t}$", ha="center", fontsize=10)
            arrow(axis, (x - 0.43, 1.82), (x - 0.43, 1.55), color=GREY)
    axis.text(2.6, 0.55, "observation and reward, predicted", ha="center", va="center", fontsize=9)
    axis.set(xlim=(0, 3.8), ylim=(0.3, 2.4))


def planner(axis: Any) -> None:
    """Candidate skills of the first and the last iteration, and the distribution refitted to the elites."""
    rng = np.random.default_rng(5)
    mean, std = np.zeros(2), np.ones(2)
    for iteration in range(ITERATIONS):
        skills = mean + std * rng.standard_normal((CANDIDATES, 2))
        elites = np.argsort(((skills - BEST) ** 2).sum(1))[:ELITES]
        if iteration in (0, ITERATIONS - 1):
            middle = 1.05 if iteration == 0 else 3.65
            chosen = np.isin(np.arange(CANDIDATES), elites)
            start = np.array([middle - 0.85, 1.35])
            for skill, elite in sorted(zip(skills, chosen, strict=True), key=lambda pair: pair[1]):
                end = np.array([middle + 0.25, 1.35]) + np.array([0.33, 0.3]) * skill
                t = np.linspace(0, 1, STEPS + 1)[:, None]
                bend = np.array([0, 0.12 * skill[1]]) * np.sin(np.pi * t)
                path = start + (end - start) * t + bend
                colour = ORANGE if elite else GREY
                axis.plot(*path.T, color=colour, lw=1.5 if elite else 0.9, zorder=2 + elite)
                axis.plot(*end, "o", color=colour, ms=4.5 if elite else 3, zorder=3 + elite)
            axis.plot(*start, "o", color=BLUE, ms=7, zorder=5)
        mean, std = skills[elites].mean(0), skills[elites].std(0)
    arrow(axis, (2.2, 1.35), (2.65, 1.35))
    axis.text(2.42, 1.47, "refit to\nthe elites,\n4 times", ha="center", va="bottom", fontsize=9)
    axis.text(
        1.05,
        0.25,
        "16 candidate skills, each imagined\n10 steps; the 4 best are elites",
        ha="center",
        va="center",
        fontsize=9,
    )
    axis.text(3.65, 0.25, "the last iteration:\none skill to act on", ha="center", va="center", fontsize=9)
    axis.set(xlim=(-0.3, 4.6), ylim=(-0.05, 2.4))


def acting(axis: Any) -> None:
    """Skills held one after the other, an action at every agent step."""
    for i, colour in enumerate((ORANGE, GREEN, BLUE)):
        left = 0.15 + 1.2 * i
        axis.add_patch(
            FancyBboxPatch((left, 1.95), 1.1, 0.3, boxstyle="round,pad=0.01", fc=colour, ec="none", alpha=0.85)
        )
        axis.text(left + 0.55, 2.1, f"skill $z_{i + 1}$", ha="center", va="center", fontsize=9, color="white")
        for k in range(STEPS):
            x = left + 0.06 + 0.109 * k
            axis.plot([x, x], [1.72, 1.86], color=colour, lw=1.5)
    axis.text(1.9, 1.56, "each held K = 10 agent steps", ha="center", va="center", fontsize=9)
    arrow(axis, (1.9, 1.42), (1.9, 1.2))
    box(axis, 1.9, 0.98, 2.0, 0.32, "policy  $q(a\\,|\\,s, z)$", ORANGE)
    arrow(axis, (1.9, 0.8), (1.9, 0.56))
    box(axis, 1.9, 0.34, 2.0, 0.32, "environment", GREY)
    axis.set(xlim=(0, 3.8), ylim=(0.1, 2.4))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images/method.png"))
    args = parser.parse_args()
    figure = Figure(figsize=(11, 2.7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = {
        "1. Learn a world model": world_model,
        "2. Plan skills in imagination (CEM)": planner,
        "3. The policy acts": acting,
    }
    axes = figure.subplots(1, 3, width_ratios=(3.8, 4.7, 3.8))
    for axis, (title, draw) in zip(axes, panels.items(), strict=True):
        draw(axis)
        axis.set_title(title, fontsize=11, color=INK)
        axis.axis("off")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=120, facecolor="white")
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
