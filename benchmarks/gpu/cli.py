"""Times planning, acting and the whole update on a GPU: our kernels as CUDA graphs beside PyTorch and JAX.

    python benchmarks/gpu.py [--quick] [--out benchmarks/results/NAME.json] [--task-dims 78 12]

Checks come first: a variant whose output differs from the eager one's on the same noise, or from float64's on the
processor, is reported and not timed. benchmarks/README.md says what the rows and the JSON hold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from gpu import estimate
from gpu.bench import Bench
from gpu.table import environment, row, table
from gpu.timing import measure_peaks, release
from gpu.variants import MATMUL, VARIANTS
from gpu.work import WORKS
from lsp_fast.config import make_config


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter samples; the update is not compiled")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument(
        "--task-dims", type=int, nargs=2, default=(78, 12), metavar=("O", "A"), help="default: quadruped's"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the script itself")
    parser.add_argument("--preset", choices=("paper", "cpu", "smoke"), help="default: paper; smoke on the cpu")
    parser.add_argument("--work", nargs="+", choices=tuple(WORKS), default=tuple(WORKS))
    parser.add_argument(
        "--variants", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS), help="eager always runs"
    )
    parser.add_argument("--precisions", nargs="+", choices=tuple(MATMUL), default=tuple(MATMUL))
    parser.add_argument("--estimate", action="store_true", help="count what a plan asks of a card; none is needed")
    parser.add_argument("--samples", type=int, help="at least 5; default 9, or 5 with --quick")
    args = parser.parse_args(argv)
    if args.samples is not None and args.samples < 5:
        parser.error(f"--samples {args.samples}: a median needs at least 5")
    args.samples = args.samples or (5 if args.quick else 9)
    args.sample_seconds, args.warmup = (0.05, 3) if args.quick else (0.2, 5)
    if args.device == "cpu":
        # Eager only, in single precision: the numbers mean nothing, the script's logic does.
        args.variants, args.precisions = (), ("fp32",)
        args.sample_seconds, args.warmup = 0.0, 1
    args.preset = args.preset or ("smoke" if args.device == "cpu" else "paper")
    return args


def write(path: Path, found: dict) -> None:
    """As JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.estimate:
        found = estimate.report()
        if args.out:
            write(args.out, found)
        print(estimate.text(found))
        return 0
    if args.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA GPU, and PyTorch sees none here.", file=sys.stderr)
        return 2
    device = torch.device(args.device)
    config = make_config(args.preset, device=args.device)
    about = environment(device)
    peaks = measure_peaks(args, device)
    t = config.train
    sizes = {
        "preset": args.preset,
        "task_dims": list(args.task_dims),
        "plan_states": config.behavior.plan_states or t.batch_size * t.batch_length,
        "batch": [t.batch_size, t.batch_length],
        "samples": args.samples,
    }
    rows = []
    for name in args.work:
        bench = Bench(WORKS[name](config, tuple(args.task_dims), device), args, device)
        variants, flops = bench.run()
        eager = {v.precision: statistics.median(v.seconds) for v in variants if v.name == "eager" and v.seconds}
        rows += [row(v, flops, peaks, eager) for v in variants]
        if args.out:  # what is known survives whatever comes next
            write(args.out, {"environment": about, "sizes": sizes, "matmul_flop_per_s": peaks, "rows": rows})
        del bench, variants
        torch.compiler.reset()
        release(device)
    measured = ", ".join(f"{k} {v / 1e12:.3g}" for k, v in peaks.items())
    print(table(rows, f"{about['device']}, torch {about['torch']}; matrix products reach (TFLOP/s): {measured}"))
    # Eager that fails its check leaves nothing to compare with.
    return int(any(r["variant"] == "eager" and r["failure"] for r in rows))
