"""Do skills matter in these runs? What a screen's verdict is read from (experiments/README.md).

    lsp-fast sweep experiments/screen/skills_3_random_share.toml --jobs 2
    python benchmarks/screening.py runs/skills_3_random_share --out benchmarks/results/screen_skills_3.json

Every run's health over the last half of its steps, its evaluations, and what is not its preset's. A gain comes with the
standard error of the mean over the rows.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

from measure import machine

from lsp_fast.config import base_config, differences
from lsp_fast.storage.metrics import read_rows
from lsp_fast.storage.run_folder import RunFolder

NUMBERS = {
    "planner/gain": "gain %",
    "planner/gain_error": "±",
    "skill/information": "information",
    "skill/action_spread": "spread",
    "behavior/saturation": "saturation",
    "planner/std": "plan's std",
    "skill/beta": "beta",
    "behavior/task_grad_norm": "|g_R|",
    "behavior/intrinsic_grad_norm": "|g_i|",
    "world_model/grad_norm": "model |g|",
    "behavior/value_abs_max": "largest V",
    "train/return": "exploring",
}
"""Columns of metrics.jsonl, and what a line calls them."""


def screened(folder: Path) -> dict[str, Any]:
    """One run: its evaluations, and means over its last half."""
    config, rows = RunFolder(folder).read_config(), read_rows(folder / "metrics.jsonl")
    last = [row for row in rows if row["env_steps"] > rows[-1]["env_steps"] / 2]
    measured = {name: [row[name] for row in last if name in row] for name in NUMBERS}
    means = {name: statistics.fmean(values) for name, values in measured.items() if values}
    gains = measured["planner/gain"]
    if gains:  # of their mean
        means["planner/gain_error"] = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
    changed = differences(base_config(config.preset, config.algorithm), config)
    return {
        "task": config.task,
        "method": config.method,
        "seed": config.seed,
        "evaluations": {row["env_steps"]: row["eval/return"] for row in rows if "eval/return" in row},
        "means": means,
        "rows": len(gains) or len(last),
        # A source by its name: where it lies is the machine's affair.
        "changed": {name: Path(new).name if name == "transfer.source" else new for name, (_, new) in changed.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or that hold some")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    options = parser.parse_args()
    folders = sorted({p.parent for path in options.runs for p in path.rglob("metrics.jsonl")})
    if not folders:
        parser.error("no runs there")
    runs = [screened(folder) for folder in folders]
    for run in runs:
        shown = [f"{said} {run['means'][name]:.3g}" for name, said in NUMBERS.items() if name in run["means"]]
        returns = ", ".join(f"{value:.0f}" for value in run["evaluations"].values())
        print(f"{run['task']:16} {run['method']:20} {run['seed']}: {'; '.join(shown)}; returns {returns}")
    argv = ["python", "benchmarks/screening.py", *sys.argv[1:]]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"command": shlex.join(argv), **machine(), "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
