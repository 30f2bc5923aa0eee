"""How many threads PyTorch and our own kernels take."""

from __future__ import annotations

import math
import os

import torch

from lsp_fast import machine
from lsp_fast.errors import ConfigError


def use(asked: int = 0) -> str | None:
    """Take `asked` threads; 0 leaves PyTorch's choice, unless a container grants less time than that.

    PyTorch counts the cores that it may run on. A container of two cores' time on a machine of 64 would run 64 threads,
    which then wait for each other.

    Returns:
        A line for the user where the container decided, else None.

    Raises:
        ConfigError: no machine of this size has as many.
    """
    if asked > (most := machine.most_threads()):
        raise ConfigError(
            f"threads = {asked}: this machine has {os.cpu_count()} processors; at most {most}, or 0 for as many as fit"
        )
    if asked:
        torch.set_num_threads(asked)
        return None
    quota = machine.cpu_quota()
    chosen = any(os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
    if chosen or quota is None or torch.get_num_threads() <= (share := max(1, math.ceil(quota))):
        return None
    before = torch.get_num_threads()
    torch.set_num_threads(share)
    return f"{share} threads instead of {before}: the container grants the time of {quota:.3g} cores (--threads)"
