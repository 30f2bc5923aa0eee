"""Runs of `lsp-fast train --preset gpu`, as steps of first_hour.py.

python benchmarks/gpu/runs.py resume --out NAME.json     # stopped after a minute, and gone on with for another
python benchmarks/gpu/runs.py learn --out NAME.json      # 8.5 minutes of a run that the next call goes on with
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # what is run is this tree, installed or not

from lsp_fast.storage.metrics import read_rows
from lsp_fast.storage.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "runs" / "gpu_first_hour"
SLOWER = ("goes on without a CUDA graph", "falling back to the reference backend")
"""What a run says where it goes on without what makes it fast."""


def train(folder: Path, minutes: float, options: Sequence[str]) -> tuple[int, list[str]]:
    """Train in a process of its own: its exit status, and what it said of being slower."""
    command = [sys.executable, "-m", "lsp_fast.cli", "train", "--logdir", str(folder), "--max-minutes", str(minutes)]
    process = subprocess.Popen([*command, *options], cwd=ROOT, stderr=subprocess.PIPE, text=True, errors="replace")
    assert process.stderr is not None
    slower = []
    for line in process.stderr:
        sys.stderr.write(line)
        if any(words in line for words in SLOWER):
            slower.append(line.strip())
    return process.wait(), slower


def resume(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Stop a run, go on with it, and compare its rows."""
    options = ["--preset", args.preset, "--train.log-every", "100", *args.options]
    wrong: list[str] = []
    starts: list[list[dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        for _ in range(2):
            status, slower = train(folder, args.minutes or 1.0, options)
            wrong += slower + ([f"train ends with status {status}"] if status else [])
            starts.append(read_rows(folder / "metrics.jsonl"))
            write(args.out, {"rows": [len(rows) for rows in starts], "wrong": wrong})
            if status:
                break
    if len(starts) == 2:
        wrong += compare(*starts)
    steps = [rows[-1]["env_steps"] if rows else None for rows in starts]
    return {"rows": [len(rows) for rows in starts], "env_steps": steps}, wrong


def compare(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[str]:
    """What is wrong with the rows of a run that went on."""
    wrong = []
    if not before:
        wrong.append("the first start wrote no row of metrics; give it more --minutes")
    if after[: len(before)] != before:
        wrong.append("the first start's rows are not those that the run went on from")
    if len(after) <= len(before):
        wrong.append(f"the second start added no row to {len(before)}")
    # Evaluations have rows of their own, at the same steps.
    steps = [row["env_steps"] for row in after if "world_model/loss" in row]
    if not steps or any(b <= a for a, b in itertools.pairwise(steps)):
        wrong.append(f"rows of learning do not follow one another: their env_steps are {steps}")
    return wrong


def learn(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Some minutes of the real run, with its scores."""
    began = time.perf_counter()
    before = read_rows(args.logdir / "metrics.jsonl")
    status, wrong = train(args.logdir, args.minutes or 8.5, ["--preset", args.preset, *args.options])
    rows = read_rows(args.logdir / "metrics.jsonl")
    if status:
        wrong = [*wrong, f"train ends with status {status}"]
    if not rows:
        return {"finished": False}, [*wrong, "there is no row of metrics"]
    folder = RunFolder(args.logdir)
    last, config = rows[-1], folder.read_config()
    return {
        "task": config.task,
        "algorithm": config.algorithm,
        "preset": config.preset,
        "env_steps": last["env_steps"],
        "env_steps_before": before[-1]["env_steps"] if before else 0,
        "env_steps_of_the_run": config.env_steps,
        "seconds": time.perf_counter() - began,
        "finished": last["env_steps"] >= config.env_steps,
        "scores": json.loads(folder.scores.read_text()) if folder.scores.exists() else [],
        "last_row": last,
    }, wrong


def write(path: Path, found: dict[str, Any]) -> None:
    path.write_text(json.dumps(found, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("resume", "learn"))
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--preset", default="gpu")
    parser.add_argument("--minutes", type=float, help="of each start; default: 1 to resume, 8.5 to learn")
    parser.add_argument("--logdir", type=Path, default=RUN, help="folder of the run that learns")
    args, args.options = parser.parse_known_args(argv)  # the rest is `lsp-fast train`'s
    found, wrong = {"resume": resume, "learn": learn}[args.what](args)
    write(args.out, {**found, "wrong": wrong})
    for reason in wrong:
        print(f"wrong: {reason}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
