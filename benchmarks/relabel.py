"""Milliseconds to relabel a million agent steps of the arena: python benchmarks/relabel.py"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lsp_fast.experience.relabel import extras_dim, relabeller
from lsp_fast.experience.replay import Rows

SOURCE, ROWS, REPEAT = "quadruped_upright_walk", 1_000_000, 2


def main() -> int:
    extras = np.random.default_rng(0).normal(size=(ROWS, extras_dim(SOURCE, REPEAT))).astype(np.float32)
    extras[:, -3] = REPEAT
    nothing = np.zeros(ROWS, np.float32)
    rows = Rows(nothing, nothing, nothing, nothing, np.zeros(ROWS, bool), extras)
    for target in ("quadruped_reach", SOURCE):
        rewards, times = relabeller(SOURCE, target, REPEAT), []
        for _ in range(6):
            start = time.perf_counter()
            rewards(rows)
            times.append(time.perf_counter() - start)
        print(f"{target:24} {1000 * np.median(times[1:]):6.0f} ms")  # the first compiled it
    return 0


if __name__ == "__main__":
    sys.exit(main())
