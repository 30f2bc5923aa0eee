"""One whole training update (world model, planning, behaviour), and its world model alone: by PyTorch and by C++."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from measure import Work
from peers.problem import DIMS

from lsp_fast.agents import ImaginationAgent
from lsp_fast.config import make_config
from lsp_fast.models.world_model import SequenceBatch

VARIANTS = {
    "reference": {"backend": "reference"},
    "C++": {"backend": "cpp"},
    "C++ bf16": {"backend": "cpp", "planner__precision": "bf16"},
    "C++ bf16, its own noise": {"backend": "cpp", "planner__precision": "bf16", "planner__noise": "philox"},
}


def works() -> Iterator[Work]:
    """The cpu preset's update; and the paper's, which would plan from 2500 states, from 32 of them."""
    for preset, starts in (("cpu", 32), ("paper", 32)):
        yield from updates(preset, starts)


def updates(preset: str, starts: int) -> Iterator[Work]:
    """From one batch of random sequences."""
    agents, losses = {}, {}
    for name, overrides in VARIANTS.items():
        c = make_config(preset, device="cpu", behavior__plan_states=starts, **overrides)
        agents[name] = ImaginationAgent(*DIMS, c)
        losses[name] = agents[name].update(batch(c.train.batch_size, c.train.batch_length))
    for name in ("world_model/loss", "behavior/value_loss"):
        np.testing.assert_allclose(losses["C++"][name], losses["reference"][name], rtol=1e-3)
    size = batch(c.train.batch_size, c.train.batch_length)
    of = "" if preset == "cpu" else f" (of {c.train.batch_size * c.train.batch_length})"
    yield Work(
        f"update, {preset} preset, plans from {starts}{of} states",
        "reference",
        {name: partial(agent.update, size) for name, agent in agents.items()},
    )
    yield Work(
        f"update of the world model alone, {preset} preset",
        "reference",
        {name: partial(agents[name].update, size, behavior=False) for name in ("reference", "C++")},
    )


def batch(sequences: int, length: int) -> SequenceBatch:
    """Random numbers where a replay's would be."""
    generator = torch.Generator().manual_seed(0)
    observation = torch.randn(sequences, length, DIMS[0], generator=generator)
    action = torch.rand(sequences, length, DIMS[1], generator=generator) * 2 - 1
    reward = torch.rand(sequences, length, generator=generator)
    is_first = torch.zeros(sequences, length, dtype=torch.bool)
    return SequenceBatch(observation, action, reward, torch.zeros(sequences, length), is_first)
