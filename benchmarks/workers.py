"""Environments in processes of their own (`collect.workers`) beside one process: where it gains, and where not.

    python benchmarks/workers.py [--samples 7] [--out benchmarks/results/workers.json] [TASK ...]

The same episodes' beginnings are stepped in turns, by the run's own process and by 1 and 2 others. Milliseconds are of
one agent step of one environment, its messages included. `pixels:` before a task draws it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import gymnasium
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what is timed is this tree, installed or not

from measure import Work, compare, table, write

from lsp_fast import envs
from lsp_fast.experience.driver import Driver
from lsp_fast.experience.workers import Workers

TASKS = ("pixels:cheetah_run", "gym:Humanoid-v5", "gym:Pendulum-v1", "humanoid_run", "quadruped_walk", "cheetah_run")
"""Frames; a heavy and a light environment of gymnasium; dm_control's own step; the direct path, with threads and
without."""
TOGETHER = 4
PROCESSES = (1, 2)


def work(task: str) -> Work:
    """That task; all variants give the same numbers first."""
    name, obs = task.removeprefix("pixels:"), "pixels" if task.startswith("pixels:") else "features"
    steps = 15 if obs == "pixels" else 100
    variants = {"this process": stepping([envs.make(name, obs=obs) for _ in range(TOGETHER)], steps)}
    for count in PROCESSES:
        workers = Workers(count, name, obs=obs)  # they end with this process
        variants[f"{count} process{'es' * (count > 1)}"] = stepping([workers.make() for _ in range(TOGETHER)], steps)
    expected, *others = (variant() for variant in variants.values())
    assert all(other == expected for other in others)
    return Work(f"{task}, {TOGETHER} together", "this process", variants, calls=steps * TOGETHER)


def stepping(environments: Sequence[gymnasium.Env], steps: int) -> Callable[[], list[bytes]]:
    """Steps with random actions, from the same state in every call. Returns what they observe at last."""
    driver = Driver(environments, 0)
    driver.reset()
    start = driver.state()
    shape = (steps, TOGETHER, *(environments[0].action_space.shape or ()))
    actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)

    def step() -> list[bytes]:
        driver.load(start)
        for action in actions:
            driver.step(action)
        return [observation.tobytes() for observation in driver.observations]

    return step


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", default=TASKS)
    parser.add_argument("--samples", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for task in options.tasks:
        print(f"measuring {task} ...", flush=True)
        rows += compare(work(task), samples=options.samples)
    print(f"\n{table(rows)}")
    if options.out:
        command = shlex.join(["python", "benchmarks/workers.py", *(sys.argv[1:] if arguments is None else arguments)])
        write(options.out, rows, samples=options.samples, command=command)
    return 0


if __name__ == "__main__":
    sys.exit(main())
