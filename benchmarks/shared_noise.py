"""Common random numbers in plans: what they do to the elites and to learning.

    lsp-fast sweep experiments/shared_noise_cpu.toml --jobs 2
    python benchmarks/shared_noise.py runs/shared_noise_cpu --out benchmarks/results/shared_noise.json

Every trained model plans from states of its own episodes, twice with fresh noise: how many elites do both draws agree
on, with noise of each candidate's own and with noise that a state's candidates share? Chance is M / G.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learning import score
from measure import machine

from lsp_fast import envs, evaluate
from lsp_fast.agents import ImaginationAgent
from lsp_fast.config import replace
from lsp_fast.noise import Noise
from lsp_fast.ops.types import State
from lsp_fast.planning.health import planner_health
from lsp_fast.planning.planner import Planner
from lsp_fast.reports.figures import learning_curves

WAYS = ("independent", "shared")


def states_of(agent: ImaginationAgent, every: int = 5) -> State:
    """Posterior states along one episode, acting as while collecting."""
    env = envs.make(agent.config.task, action_repeat=agent.config.collect.action_repeat)
    observation, _ = env.reset(seed=0)
    carry, found, done = agent.initial_carry(1, explore=True, noise=Noise(0)), [], False
    while not done:
        action, carry = agent.policy(observation[None], carry)
        found.append(carry.state)
        observation, _, terminated, truncated, _ = env.step(action[0])
        done = terminated or truncated
    return State(*(torch.cat(parts) for parts in zip(*found[::every], strict=True)))


def health(agent: ImaginationAgent, start: State) -> dict[str, dict[str, float]]:
    """The planner's health with either noise, on the same states."""
    results = {}
    for way in WAYS:
        config = replace(agent.config, {"planner.rollouts": "shared" if way == "shared" else "sampled"})
        measured = planner_health(Planner(config, agent.plan_weights, agent.backend), start, Noise(1))
        results[way] = {name: value.item() for name, value in measured.items()}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the sweep's folder")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    learned: dict[str, Any] = {}
    curves, table = [], []
    for way in WAYS:
        folders = sorted(options.runs.glob(f"*-{way}-*"))
        learned[way] = rows = [score(folder, options.episodes) for folder in folders]
        curves += [{**row, "method": f"lsp, {way} noise"} for row in rows]
        for folder in folders:
            agent = evaluate.load(folder, device="cpu")
            measured = health(agent, states_of(agent))
            table.append({"trained_with": way, "run": folder.name, "planned_with": measured})
            told = "  ".join(f"{w}: overlap {m['elite_overlap']:.2f}" for w, m in measured.items())
            print(f"trained with {way} noise, {folder.name}: {told}", flush=True)
    overlap = [np.mean([row["planned_with"][way]["elite_overlap"] for row in table]) for way in WAYS]
    for way in WAYS:
        returns = [(row["deterministic_mean"], row["exploring_mean"]) for row in learned[way]]
        print(f"{way}: returns {np.mean(returns, 0).round(1)} of {np.round(returns, 1).tolist()}")
    print(f"elite overlap over all models: {dict(zip(WAYS, np.round(overlap, 3), strict=True))}")
    command = shlex.join(["python", "benchmarks/shared_noise.py", *sys.argv[1:]])
    report = {"command": command, **machine(), "elites": table, "returns": learned}
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(options.out, learning_curves(curves, options.out.with_suffix(".png")))


if __name__ == "__main__":
    main()
