"""How much of what a choice of skills could gain does a plan's own score gain? (experiments/README.md, mend 1)

    python benchmarks/plan_gain.py runs/x --out benchmarks/results/plan_gain.json

In 64 replayed states of each trained run 16 skills are scored by the planner, and by 32 sampled rollouts; 32 others
judge which of the two chose better. All gains are over the best one skill for all states, in % of the value.
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
from measure import machine

from lsp_fast import agents
from lsp_fast.evaluate import make_env
from lsp_fast.learning.skill_health import ROLLOUTS, SKILLS, STATES, plan_scores, planning_gain
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.noise import Noise
from lsp_fast.ops.types import map_state
from lsp_fast.storage.sources import read_run
from lsp_fast.training.trainer import Trainer

DRAWS = 4
"""Of ROLLOUTS rollouts each, for those who choose and for those who judge."""


def trained(folder: Path) -> tuple[agents.ImaginationAgent, Trainer]:
    """A run as its newest checkpoint has it: its agent, and the trainer with the replay."""
    config, state = read_run(folder, device="cpu")
    trainer = Trainer(config, folder / "replay", state, [make_env(config) for _ in range(config.collect.num_envs)])
    assert isinstance(trainer.agent, agents.ImaginationAgent)
    return trainer.agent, trainer


@torch.no_grad()
def gains(folder: Path) -> dict[str, Any]:
    """One run."""
    agent, trainer = trained(folder)
    config = agent.config
    noise = Noise(0)
    batch = SequenceBatch(*(torch.as_tensor(x) for x in agent.sample(trainer.replay, np.random.default_rng(0))))
    count, length = batch.reward.shape
    states = agent.model_loss(batch, noise.normal("latent", length, count, config.model.stoch)).states
    start = map_state(lambda x: x.flatten(0, 1)[:: max(length * count // STATES, 1)][:STATES].contiguous(), states)
    plans = noise.normal("plans", SKILLS, *config.plan_shape(agent.action_dim))
    own, judged = zip(*(plan_scores(agent.planner, start, plans, noise) for _ in range(2 * DRAWS)), strict=True)
    choosing, judging = torch.stack(judged[:DRAWS]).mean(0), torch.stack(judged[DRAWS:]).mean(0)
    by_plan, error = planning_gain(own[0], judging)
    return {
        "run": folder.name,
        "plan": by_plan.item(),
        "plan_error": error.item(),
        "sampled": planning_gain(choosing, judging)[0].item(),
        "rollouts": DRAWS * ROLLOUTS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of trained runs")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [gains(folder) for folder in options.runs]
    for row in rows:
        print(f"{row['run']:44} plan {row['plan']:.3f} ± {row['plan_error']:.3f}; sampled {row['sampled']:.3f}")
    share = sum(row["plan"] for row in rows) / sum(row["sampled"] for row in rows)
    print(f"the plan's choice gains {share:.2f} of the sampled rollouts'")
    argv = ["python", "benchmarks/plan_gain.py", *sys.argv[1:]]
    options.out.write_text(
        json.dumps({"command": shlex.join(argv), **machine(), "runs": rows, "share": share}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
