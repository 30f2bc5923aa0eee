"""Replay -> batch -> metrics: the agent's updates. Knows no environment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lsp_fast.agents import Agent
from lsp_fast.errors import LspFastError
from lsp_fast.experience.replay import Batch, Replay
from lsp_fast.noise import stream_seed
from lsp_fast.training.upload import Upload


class NotFinite(LspFastError):
    """A loss or gradient is NaN or infinite."""


class Learner:
    """Draws batches and updates the agent from them.

    Args:
        agent: what learns.
        replay: batches are drawn from it.
        seed: the run's.

    Attributes:
        updates: made so far.
        finite: 0-d bool on the agent's device, whether every loss and gradient so far was finite.
    """

    def __init__(self, agent: Agent, replay: Replay, seed: int) -> None:
        self.agent, self.replay = agent, replay
        self.sampler = np.random.default_rng(stream_seed(seed, "replay"))
        self.upload = Upload(agent.device)
        self.updates = 0
        self.finite = torch.ones((), dtype=torch.bool, device=agent.device)

    def learn(self, env_steps: int, *, behavior: bool = True, diagnose: bool = False) -> dict[str, Tensor]:
        """One update.

        Args:
            env_steps: at which it is made, for the agent's clock and for messages.
            behavior, diagnose: as `Agent.update` takes them.

        Returns:
            metrics, 0-d on the agent's device.

        Raises:
            NotFinite: a loss or a gradient is not; on a GPU, which is not waited for, `check_finite` says so later.
        """
        before = self.sampler.bit_generator.state
        arrays = self.agent.sample(self.replay, self.sampler)
        self.agent.at(env_steps)
        metrics = self.agent.update(self.upload(arrays), behavior=behavior, diagnose=diagnose)
        self.updates += 1
        watched = {k: v for k, v in metrics.items() if k.endswith(("loss", "grad_norm"))}
        self.finite = self.finite & torch.stack(list(watched.values())).isfinite().all()
        if self.agent.device.type == "cpu" and not self.finite:
            name, value = next((k, v.item()) for k, v in watched.items() if not v.isfinite())
            raise NotFinite(
                f"{name} became {value} in update {self.updates} at {env_steps} environment steps. "
                f"{self._locate(before, arrays)}"
            )
        return metrics

    def check_finite(self) -> None:
        """Raise NotFinite where a loss or gradient since the start was not: on a GPU `learn` does not wait to see."""
        if not self.finite:
            raise NotFinite(f"a loss or gradient became NaN or infinite within the first {self.updates} updates.")

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "agent": self.agent.state_dict(),
            "sampler": json.dumps(self.sampler.bit_generator.state),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.agent.load_state_dict(state["agent"], state["env_steps"])
        self.sampler.bit_generator.state = json.loads(state["sampler"])
        self.updates = state["updates"]

    def _locate(self, sampler_state: Any, arrays: Sequence[np.ndarray]) -> str:
        """Where in the replay the windows of a batch lie, and what in them is not finite."""
        if not isinstance(arrays, Batch):
            return "The replay takes finite rows only."
        rng = np.random.default_rng()
        rng.bit_generator.state = sampler_state
        episodes, offsets = self.replay.draw(rng, *arrays.reward.shape)
        for field, array in zip(arrays._fields, arrays, strict=True):
            if len(bad := np.argwhere(~np.isfinite(array))):
                b, row = bad[0][:2]
                return (
                    f"Its batch holds {array[tuple(bad[0])]} as {field} of sequence {b}, row {row}: row "
                    f"{offsets[b] + row} of episode {episodes[b]} of the replay (0 is the oldest)."
                )
        windows = ", ".join(f"{e}:{o}" for e, o in zip(episodes, offsets, strict=True))
        return f"Its batch is finite; its {arrays.reward.shape[1]} rows each begin at (episode:row) {windows}."
