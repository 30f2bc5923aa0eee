"""Agents: what turns observations into actions and batches into learning."""

from lsp_fast.agents.imagination import Carry, ImaginationAgent

__all__ = ["Carry", "ImaginationAgent"]
