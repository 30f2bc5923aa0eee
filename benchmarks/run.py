"""All CPU benchmarks as one table of ratios.

    python benchmarks/run.py [NAME ...] [--threads N] [--samples N] [--out benchmarks/results/NAME.json]

NAME is a module without its `bench_`, such as select_elites; all of them by default.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from pathlib import Path

import torch
from measure import Row, compare, table, write
from peers.process import Process

from lsp_fast import machine

HERE = Path(__file__).parent
NAMES = [path.stem.removeprefix("bench_") for path in sorted(HERE.glob("bench_*.py"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="PyTorch's and our own")
    parser.add_argument("--samples", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    torch.set_num_threads(options.threads)
    machine.keep_memory()  # as training does
    rows: list[Row] = []
    for name in options.names or NAMES:
        for work in importlib.import_module(f"bench_{name}").works():
            print(f"measuring {work.name} ...", flush=True)
            rows += compare(work, samples=options.samples)
            for variant in work.variants.values():
                if isinstance(variant, Process):
                    variant.close()
    print(f"\n{table(rows)}")
    if options.out:
        command = shlex.join(["python", "benchmarks/run.py", *sys.argv[1:]])
        write(options.out, rows, threads=options.threads, samples=options.samples, command=command)


if __name__ == "__main__":
    main()
