"""Make the agents that come with the package from runs of our own.

    python benchmarks/pretrained.py runs/protocol_100k/cheetah_run-lsp-0 --name cheetah_run --command "lsp-fast train …"

The scores in NAME.json are of the weights as they are written, large tensors rounded to 16 bits. `machine` is the one
that scored them.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from measure import machine

import lsp_fast
from lsp_fast import evaluate
from lsp_fast.config import Config
from lsp_fast.storage import pretrained, sources


def make(run: Path, name: str, command: str, episodes: int, seed: int) -> dict[str, Any]:
    """Write both files; returns what is told of the agent."""
    config, state = sources.read_run(run)
    # Whoever takes it chooses device, threads, how long, and where its numbers go: a transfer begins from these values.
    theirs = Config()
    config = dataclasses.replace(
        config, device="auto", backend="auto", threads=0, label="", log=theirs.log, max_minutes=theirs.max_minutes,
        collect=dataclasses.replace(config.collect, workers=0),
    )  # fmt: skip
    made: dict[str, Any] = {
        "command": command, "seed": config.seed, "env_steps": state["env_steps"], "version": lsp_fast.__version__,
        "machine": machine(),
    }  # fmt: skip
    pretrained.write(config, state, made, name)
    agent = evaluate.load(f"{pretrained.PREFIX}{name}", device="cpu")
    with evaluate.Evaluator(agent.config, episodes) as evaluator:
        returns = evaluator.run_agent(agent, seed).returns
    made |= {"scores": {"episodes": episodes, "seed": seed, "returns": [round(x, 1) for x in returns]}}
    made["scores"]["mean"] = round(sum(returns) / len(returns), 1)
    pretrained.write(config, state, made, name)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--name", required=True)
    parser.add_argument("--command", required=True, help="that made the run")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1000, help="of the episodes")
    given = parser.parse_args()
    made = make(given.run, given.name, given.command, given.episodes, given.seed)
    print(f"{given.name}: {made['scores']['mean']} over {given.episodes} episodes")


if __name__ == "__main__":
    main()
