"""How long one step of acting takes: an exported policy beside our C++ and PyTorch's operations.

    python benchmarks/export.py --logdir runs/x [--policy runs/x/policy] [--steps 400] [--threads 1] [--out NAME.json]

All act on the same observations, those of the policy's self-test, and take their steps in turns. A step of `plan` is
one that looks for a new skill (or action), one of `hold` goes on with what there is; each counts from an observation to
an action in NumPy, the noise that it draws included. Use idle cores, and let --steps be 2000 for the 99th percentile of
plans.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measure import machine, version_of

from lsp_fast import evaluate
from lsp_fast.errors import LspFastError
from lsp_fast.export import policy, run

WARM_UP = 2
"""Segments that are not timed."""

Act = Callable[[np.ndarray], object]


def exported(folder: Path, threads: int) -> Act:
    """ONNX Runtime (or the graphs of whatever format lies there)."""
    return run.Policy(folder, threads=threads).act


def ours(logdir: Path, backend: str) -> Act:
    """An agent of that backend."""
    agent = evaluate.load(logdir, device="cpu", backend=backend)
    carry = agent.initial_carry(1)

    def act(observation: np.ndarray) -> object:
        nonlocal carry
        action, carry = agent.policy(observation[None], carry)
        return action

    return act


def measured(logdir: Path, folder: Path, steps: int, threads: int) -> list[dict]:
    """A row for each variant and kind of step."""
    about = json.loads((folder / "policy.json").read_text())
    planning = about["planning"] or {"segment": 1, "every": 2}
    with np.load(folder / "selftest.npz") as recorded:
        observations = recorded["observation"]
    variants: dict[str, Act] = {"exported": exported(folder, threads)}
    rows = []
    for name, backend in (("C++", "cpp"), ("PyTorch", "reference")):
        try:
            variants[name] = ours(logdir, backend)
        except LspFastError as error:
            rows.append({"variant": name, "kind": "", "missing": str(error).splitlines()[0]})
    torch.set_num_threads(threads)  # loading sets them, too
    times: dict[tuple[str, str], list[float]] = {}
    first = WARM_UP * planning["segment"]
    for t in range(first + steps):
        plans = about["planning"] and t % planning["segment"] % planning["every"] == 0
        for name, act in variants.items():
            began = time.perf_counter()
            act(observations[t % len(observations)])
            passed = time.perf_counter() - began
            if t >= first:
                times.setdefault((name, "plan" if plans else "hold"), []).append(1e3 * passed)
    for (name, kind), ms in times.items():
        told = {"median_ms": float(np.median(ms)), "p99_ms": float(np.percentile(ms, 99)), "steps": len(ms)}
        rows.append({"variant": name, "kind": kind, **told})
    return sorted(rows, key=lambda row: row["kind"])


def table(rows: list[dict]) -> str:
    """The rows as text."""
    lines = [f"{'step':8}{'variant':12}{'median ms':>12}{'p99 ms':>12}{'steps':>8}"]
    for row in rows:
        if "missing" in row:
            lines.append(f"{'':8}{row['variant']:12}  not here: {row['missing']}")
        else:
            lines.append(
                f"{row['kind']:8}{row['variant']:12}{row['median_ms']:12.3f}{row['p99_ms']:12.3f}{row['steps']:8}"
            )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logdir", type=Path, required=True, help="folder of a run")
    parser.add_argument("--policy", type=Path, help="its exported policy; made anew where it is not named")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1, help="of each")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    if options.steps < 1 or options.threads < 1:
        parser.error("--steps and --threads must be at least 1")
    with tempfile.TemporaryDirectory() as place:
        folder = options.policy
        try:
            if folder is None:
                policy.export(options.logdir, folder := Path(place) / "policy")
            rows = measured(options.logdir, folder, options.steps, options.threads)
        except (LspFastError, OSError) as error:
            sys.exit(f"export.py: {error}")
    print(table(rows))
    if options.out:
        told = {"threads": options.threads, "onnxruntime": version_of("onnxruntime"), "logdir": options.logdir.name}
        options.out.write_text(json.dumps({**machine(), **told, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
