"""How far bf16 moves the world model's gradient: C++'s products, and PyTorch's autocast, beside float64.

    python benchmarks/precision.py --out benchmarks/results/precision.json

One batch of random sequences, an untrained model of the preset's sizes. A distance is that of all gradients together,
||g - g64|| / ||g64||.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

import torch
from measure import machine
from peers.update_problem import agent_of, batch
from torch import Tensor

from lsp_fast.backends import REFERENCE, Backend
from lsp_fast.learning.world_model import world_model_loss
from lsp_fast.models.world_model import SequenceBatch, WorldModel
from lsp_fast.noise import Noise


def gradient(model: WorldModel, sequences: SequenceBatch, noise: Tensor, backend: Backend) -> Tensor:
    """Of all weights, one after the other."""
    loss = world_model_loss(model, sequences, noise, backend).loss
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]).double()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    options = parser.parse_args()
    distances = {}
    for preset in ("cpu", "paper"):
        agent = agent_of(preset, 32, backend="cpp", train__precision="bf16")
        t, model = agent.config.train, agent.world_model
        sequences = batch(t.batch_size, t.batch_length)
        noise = Noise(1).normal("latent", t.batch_length, t.batch_size, agent.config.model.stoch)
        found = {
            "C++ fp32": gradient(model, sequences, noise, agent.backend),
            "C++ bf16": gradient(model, sequences, noise, agent.learner),
        }
        with torch.autocast("cpu", torch.bfloat16):
            found["autocast bf16"] = gradient(model, sequences, noise, REFERENCE)
        wide = SequenceBatch(*(x.double() if x.is_floating_point() else x for x in sequences))
        exact = gradient(model.double(), wide, noise.double(), REFERENCE)
        distances[preset] = {name: ((g - exact).norm() / exact.norm()).item() for name, g in found.items()}
        print(preset, {name: f"{distance:.2g}" for name, distance in distances[preset].items()})
    argv = ["python", "benchmarks/precision.py", *sys.argv[1:]]
    report = {"command": shlex.join(argv), **machine(), "distances": distances}
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
