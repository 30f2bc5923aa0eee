"""Did they learn? Scores trained runs and draws their curves.

    lsp-fast sweep experiments/systems_cpu.toml --jobs 2
    python benchmarks/learning.py runs/systems_cpu --out benchmarks/results/systems_cpu.json
    python benchmarks/learning.py runs/x --planner replan=1 candidates=64 elites=8 iterations=2 --out replan.json

Every finished run in the folders plays whole episodes, deterministically and exploring, each run with one thread; with
`--planner` it plans otherwise than in its training.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import machine

from lsp_fast import evaluate
from lsp_fast.commands.words import assignments
from lsp_fast.config import base_config, differences
from lsp_fast.reports.figures import learning_curves
from lsp_fast.storage.metrics import read_rows


def score(folder: Path, episodes: int, planner: dict[str, Any]) -> dict[str, Any]:
    """Returns of the trained agent, deterministic and exploring, its curve, and what is not its preset's."""
    torch.set_num_threads(1)
    agent = evaluate.load(folder, device="cpu", planner=planner)
    c = agent.config
    evaluator = evaluate.Evaluator(c, episodes)
    [curve] = json.loads((folder / "scores.json").read_text())
    deterministic, exploring = (evaluator.run_agent(agent, seed=0, explore=e) for e in (False, True))
    seconds = [row["seconds"] for row in read_rows(folder / "metrics.jsonl") if "seconds" in row]
    changed = {name: new for name, (_, new) in differences(base_config(c.preset, c.algorithm), c).items()}
    return {
        **curve,
        "seconds": round(seconds[-1]),
        "deterministic": deterministic.returns,
        "deterministic_mean": deterministic.mean,
        "exploring": exploring.returns,
        "exploring_mean": exploring.mean,
        "preset": c.preset,
        "algorithm": c.algorithm,
        "changed": changed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or that hold some")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--planner", nargs="+", default=(), metavar="NAME=VALUE", help="to plan otherwise with")
    parser.add_argument("--jobs", type=int, default=2, help="runs scored side by side")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; the curves go beside it as PNG")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folders = sorted({p.parent for path in options.runs for p in path.rglob("scores.json")})
    if not folders:
        parser.error("no runs with evaluations there")

    rows = []
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for row in pool.imap(
            partial(score, episodes=options.episodes, planner=assignments("--planner", [options.planner])), folders
        ):
            rows.append(row)
            means = row["deterministic_mean"], row["exploring_mean"]
            print(f"{row['task']:24} {row['method']:24} {row['seed']:4} {means[0]:7.1f} {means[1]:7.1f}", flush=True)
    baselines = {}
    for folder, row in zip(folders, rows, strict=True):
        # The untrained agent of the task's first run.
        if row["task"] not in baselines:
            scored = evaluate.baselines(evaluate.load(folder, device="cpu").config, options.episodes)
            baselines[row["task"]] = {name: result.mean for name, result in scored.items()}
            print(row["task"], {name: round(value, 1) for name, value in baselines[row["task"]].items()})
    argv = ["python", "benchmarks/learning.py", *sys.argv[1:]]
    report = {"command": shlex.join(argv), **machine(), "baselines": baselines, "runs": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(options.out, learning_curves(rows, options.out.with_suffix(".png")))


if __name__ == "__main__":
    main()
