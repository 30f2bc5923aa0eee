"""`python benchmarks/gpu.py --help`: the GPU benchmark, whose rooms are in benchmarks/gpu/."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what is timed is this tree, installed or not

from gpu.cli import main  # the folder, not this file: of one name Python takes the package

if __name__ == "__main__":
    sys.exit(main())
