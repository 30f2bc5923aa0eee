"""`python benchmarks/gpu.py --help`: the GPU benchmark, whose rooms are in benchmarks/gpu/."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what is timed is this tree, installed or not

from gpu.cli import main  # the folder: a package comes before a file of its name

if __name__ == "__main__":
    sys.exit(main())
