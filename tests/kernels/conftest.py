"""Triton's interpreter runs kernels without a GPU; it is switched on when triton is imported, so in another process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def interpreted():
    """Runs a program whose last line is `print("equal")` under the interpreter; skips where triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")

    def run(program):
        tests = str(Path(__file__).parents[1])
        environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": tests}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == "equal", done.stderr

    return run
