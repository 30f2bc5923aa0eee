"""The weight of the intrinsic reward that keeps its pull on the actor a given share of the task's (SPEC section 8)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lsp_fast.config import SkillConfig

RATE = 0.1
"""Of the exponential means, a measure: about 0.01 an update where every tenth one measures [O]."""


class Balance(nn.Module):
    """beta = min(share * mean |g_R| / mean |g_i|, most), g the actor's gradient from R, and from r^i without a weight.

    It is 0 until both have been measured. Numbers are buffers, on the device; they and the count of updates go into the
    checkpoint.
    """

    task_norm: Tensor
    intrinsic_norm: Tensor
    measures: Tensor
    beta: Tensor

    def __init__(self, config: SkillConfig) -> None:
        super().__init__()
        self.share, self.most, self.every = config.beta, config.beta_max, config.beta_every
        self.updates = 0
        for name in ("task_norm", "intrinsic_norm", "measures", "beta"):
            self.register_buffer(name, torch.zeros(()))

    def due(self) -> bool:
        """Count an update, and say whether it measures: the first one does, and every `beta_every`th after it."""
        self.updates += 1
        return (self.updates - 1) % self.every == 0

    @torch.no_grad()
    def measure(self, task_norm: Tensor, intrinsic_norm: Tensor) -> None:
        """Take the norms of one update's gradients, 0-d each, into their means; in place, and nothing is read."""
        self.measures += 1
        # A plain mean at first, which leans on no value to start from.
        rate = (1 / self.measures).clamp(min=RATE)
        for mean, norm in ((self.task_norm, task_norm), (self.intrinsic_norm, intrinsic_norm)):
            mean += rate * (norm - mean)
        smallest = torch.finfo(self.beta.dtype).tiny  # where r^i has no gradient at all its weight is the bound
        self.beta.copy_((self.share * self.task_norm / self.intrinsic_norm.clamp(min=smallest)).clamp(max=self.most))

    def get_extra_state(self) -> Tensor:
        """The count of updates, for a checkpoint: it decides on the host, and lies on no device."""
        return torch.tensor(self.updates)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on counting where `get_extra_state` was called."""
        self.updates = int(state)
