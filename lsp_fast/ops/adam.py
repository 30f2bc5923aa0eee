"""Adam along clipped gradients: contract and plain PyTorch reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Step = Callable[[Sequence[Tensor]], Tensor]


def adam(holder: torch.optim.Adam, max_norm: float) -> Step:
    """What takes steps of Adam (Kingma and Ba 2015, algorithm 1) along clipped gradients.

        g <- g min(1, max_norm / (|g| + 1e-6)),   |g| over all of them

    A norm of NaN makes all parameters NaN, an infinite one those whose gradient is. The holder is what a checkpoint
    stores: its rates are read at every step, and its state changes in place, made where there is none yet.

    Args:
        holder: its parameters are all stepped.
        max_norm: above 0.

    Returns:
        a function of one gradient for each parameter, in the holder's order and of the same shape, which it may change;
        it returns |g| before clipping, 0-d.
    """
    return _Adam(holder, max_norm)


@dataclass(frozen=True)
class _Adam:
    # No closure: a copy steps the copied holder.
    holder: torch.optim.Adam
    max_norm: float

    def __call__(self, gradients: Sequence[Tensor]) -> Tensor:
        parameters = [p for group in self.holder.param_groups for p in group["params"]]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = nn.utils.clip_grad_norm_(parameters, self.max_norm)
        self.holder.step()
        return norm
