"""What a run takes over from another one."""

from __future__ import annotations

from dataclasses import dataclass

PRETRAINED = "pretrained:"
"""Begins the name of an agent that comes with the package."""


@dataclass(frozen=True)
class TransferConfig:
    """What a run takes over from another one before it begins (SPEC section 5); `lsp-fast transfer` fills it in."""

    source: str = ""
    """The other run's folder, or `pretrained:NAME`; empty: nothing."""
    source_env_steps: int = 0
    """Of the checkpoint there."""
    freeze_policy: bool = False
    """Actor and predictor stay as they were; everything else learns."""
    relabel: bool = False
    """Begin with the other run's replay, its rewards replaced by those of this task."""
