"""What does a run's world model know? Shares of the variance in its own replay that the model explains (R²).

    python benchmarks/model_error.py runs/walk runs/run --out benchmarks/results/model_error.json

Of the rewards: from the state that has seen the step itself, and from those predicted 1 to 10 agent steps ahead, with
the replay's actions and mean latents. Of each entry of the observation: from the state that has seen it; below 0.5 it
is hardly in the state. A policy cannot learn from what the state does not tell.
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
from plan_gain import trained
from torch import Tensor

from lsp_fast import ops
from lsp_fast.evaluate import make_env
from lsp_fast.models.networks import MLP
from lsp_fast.models.world_model import SequenceBatch, imagine_actions
from lsp_fast.noise import Noise
from lsp_fast.ops import layers
from lsp_fast.ops.types import State, features, map_state

SEQUENCES, SEEN, AHEAD = 512, 10, (1, 2, 5, 10)
"""Of the replay; agent steps that the model sees first; how far it then predicts."""


def explained(predicted: Tensor, truth: Tensor) -> float:
    """1 - mean squared error / variance, over all entries."""
    return (1 - (predicted - truth).square().mean() / truth.var(correction=0).clamp(min=1e-12)).item()


@torch.no_grad()
def known(folder: Path) -> dict[str, Any]:
    """One run."""
    agent, trainer = trained(folder)
    config, model, length = agent.config, agent.world_model, SEEN + max(AHEAD)
    if not isinstance(model.decoder, MLP):
        sys.exit(f"{folder} observes frames; name runs that observe features")
    arrays = trainer.replay.sample(np.random.default_rng(0), SEQUENCES, length)
    batch = SequenceBatch(*(torch.as_tensor(x) for x in arrays))
    target, actions = model.normalize(batch.observation).transpose(0, 1), batch.action.transpose(0, 1)
    first, rewards = batch.is_first.T, batch.reward.T
    noise = Noise(0).normal("latent", length, SEQUENCES, config.model.stoch)
    observed = model.rssm.observe(model.encode(target), actions, first, noise).states
    start = map_state(lambda x: x[SEEN - 1], observed)
    ahead = imagine_actions(start, model.rssm.prior_weights(), actions[SEEN:], torch.zeros_like(noise[SEEN:]))
    whole = ~first[SEEN:].any(0)  # no other episode begins among them

    def reward(states: State) -> Tensor:
        return layers.scalar_head(features(states), model.reward.weights())[:, whole]

    truth, predicted = rewards[SEEN:, whole], reward(ahead)
    seen = map_state(lambda x: x[SEEN:], observed)
    decoded = ops.mlp(features(seen).flatten(0, 1), model.decoder.weights()).unflatten(0, seen.stoch.shape[:2])
    mean, true = decoded.chunk(2, -1)[0][:, whole], target[SEEN:, whole]
    sizes = getattr(make_env(config), "entries", None) or {"observation": target.shape[-1]}
    ends = np.cumsum(list(sizes.values()))
    of_entry = [round(explained(mean[..., i], true[..., i]), 3) for i in range(ends[-1])]
    return {
        "run": folder.name,
        "env_steps": trainer.env_steps,
        "reward": explained(reward(seen), truth),
        "reward_ahead": {n: explained(predicted[n - 1], truth[n - 1]) for n in AHEAD},
        "entries": {name: of_entry[end - size : end] for (name, size), end in zip(sizes.items(), ends, strict=True)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of trained runs that observe features")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [known(folder) for folder in options.runs]
    for row in rows:
        ahead = ", ".join(f"{share:.2f}" for share in row["reward_ahead"].values())
        entries = ", ".join(f"{name} {np.median(shares):.2f}" for name, shares in row["entries"].items())
        print(f"{row['run']:44} reward {row['reward']:.2f}, ahead {ahead}; medians: {entries}")
    argv = ["python", "benchmarks/model_error.py", *sys.argv[1:]]
    options.out.write_text(json.dumps({"command": shlex.join(argv), **machine(), "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
