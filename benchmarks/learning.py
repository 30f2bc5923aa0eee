"""Does it learn? Trains tasks x algorithms x seeds, scores every run and draws the curves.

    python benchmarks/learning.py --tasks cheetah_run --seeds 0 1 2 --out benchmarks/results/cheetah_run.json

Runs go on in `--logdir` where they are unfinished and are only scored where they are finished. Each uses one thread, so
that as many as there are cores stand side by side without waiting for each other.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from measure import machine

from lsp_fast import evaluate
from lsp_fast.logger import read_rows
from lsp_fast.plotting import learning_curves


def train(command: list[str], log: Path) -> None:
    """Run one training to its end."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        subprocess.run([sys.executable, "-m", "lsp_fast.cli", *command], check=True, stdout=file, stderr=file)


def score(folder: Path, episodes: int) -> dict[str, Any]:
    """Returns of the trained agent, deterministic and exploring, and its curve."""
    agent = evaluate.load(folder, device="cpu")
    evaluator = evaluate.Evaluator(agent.config, episodes)
    [curve] = json.loads((folder / "scores.json").read_text())
    deterministic, exploring = (evaluator.run_agent(agent, seed=0, explore=e) for e in (False, True))
    return {
        **curve,
        "seconds": round(
            next(row["seconds"] for row in reversed(read_rows(folder / "metrics.jsonl")) if "seconds" in row)
        ),
        "deterministic": deterministic.returns,
        "deterministic_mean": deterministic.mean,
        "exploring": exploring.returns,
        "exploring_mean": exploring.mean,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["cheetah_run"])
    parser.add_argument("--algorithms", nargs="+", default=["lsp"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--logdir", type=Path, default=Path("runs/learning"))
    parser.add_argument("--score-only", action="store_true", help="score the runs as they are, do not train")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; the curves go beside it as PNG")
    options, more = parser.parse_known_args()
    torch.set_num_threads(1)

    commands, folders = [], []
    for seed in options.seeds:
        for task in options.tasks:
            for algorithm in options.algorithms:
                folder = options.logdir / f"{task}-{algorithm}-{seed}"
                row = ["--preset", options.preset, "--task", task, "--algorithm", algorithm, "--seed", str(seed)]
                commands.append(["train", *row, "--threads", "1", "--device", "cpu", *more, "--logdir", str(folder)])
                folders.append(folder)
    if not options.score_only:
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            logs = [options.logdir / f"{folder.name}.log" for folder in folders]
            list(pool.map(train, commands, logs))

    rows = []
    for command, folder in zip(commands, folders, strict=True):
        shown = shlex.join(["lsp-fast", *command[:-1], f"runs/{folder.name}"])
        rows.append({**score(folder, options.episodes), "command": shown})
        print(f"{folder.name:32} {rows[-1]['deterministic_mean']:7.1f} {rows[-1]['exploring_mean']:7.1f}", flush=True)
    baselines = {
        task: {
            name: result.mean
            for name, result in evaluate.baselines(evaluate.load(folder, device="cpu").config, options.episodes).items()
        }
        for task, folder in zip(options.tasks, folders[:: len(options.algorithms)], strict=False)
    }
    for task, scores in baselines.items():
        print(task, {name: round(value, 1) for name, value in scores.items()})
    argv = ["python", "benchmarks/learning.py", *sys.argv[1:]]
    report = {"command": shlex.join(argv), **machine(), "baselines": baselines, "runs": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(options.out, learning_curves(rows, options.out.with_suffix(".png")))


if __name__ == "__main__":
    main()
