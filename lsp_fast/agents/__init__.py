"""Agents: what turns observations into actions and batches into learning."""

from collections.abc import Sequence

from lsp_fast.agents.acting import Carry
from lsp_fast.agents.base import Agent
from lsp_fast.agents.hiro import HiroAgent
from lsp_fast.agents.imagination import ImaginationAgent
from lsp_fast.config import Config
from lsp_fast.observed import Plain

__all__ = ["Agent", "Carry", "HiroAgent", "ImaginationAgent", "make"]


def make(
    observation: Plain | Sequence[int], action_dim: int, config: Config, goals: Sequence[int] | None = None
) -> Agent:
    """The configuration's agent; arguments and errors are `Agent`'s.

    Args:
        goals: entries of the observation that HIRO's goals are about; None takes all.
    """
    if config.hiro.goals == "none":
        return ImaginationAgent(observation, action_dim, config)
    return HiroAgent(observation, action_dim, config, goals)
