"""The same work for pytest-benchmark: `pytest benchmarks [-k NAME] [--benchmark-json FILE]`.

It runs one variant after the other; for ratios take `python benchmarks/run.py`, which takes samples in turns.
"""

import importlib
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
WORKS = [work for path in sorted(HERE.glob("bench_*.py")) for work in importlib.import_module(path.stem).works()]


@pytest.mark.parametrize(
    ("work", "variant"),
    [pytest.param(work, variant, id=f"{work.name}-{variant}") for work in WORKS for variant in work.variants],
)
def test_speed(work, variant, benchmark):
    benchmark.group = work.name
    benchmark(work.variants[variant])
