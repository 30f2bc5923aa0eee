"""What may be a seed, wherever one is given."""

from __future__ import annotations

from typing import Any

from lsp_fast.errors import ConfigError

SEEDS = 2**31
"""Simulators in C++ take signed numbers of 32 bits."""


def check_seed(seed: Any) -> None:
    """Raise ConfigError unless it is an integer in 0 .. 2**31 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < SEEDS:
        raise ConfigError(f"seed = {seed!r}: must be an integer in 0 .. 2**31 - 1")
