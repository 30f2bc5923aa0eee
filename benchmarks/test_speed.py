"""The same work for pytest-benchmark: `pytest benchmarks [-k NAME] [--benchmark-json FILE]`.

It runs one variant after the other; for ratios take `python benchmarks/run.py`, which takes samples in turns.
"""

import importlib
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


def works(name):
    """A module's; of updates without the peers, all of which would be in memory at once, and compile for long."""
    module = importlib.import_module(name)
    return module.works(peers=False) if name == "bench_update" else module.works()


WORKS = [work for path in sorted(HERE.glob("bench_*.py")) for work in works(path.stem)]


@pytest.mark.parametrize(
    ("work", "variant"),
    [pytest.param(work, variant, id=f"{work.name}-{variant}") for work in WORKS for variant in work.variants],
)
def test_speed(work, variant, benchmark):
    benchmark.group = work.name
    benchmark(work.variants[variant])
