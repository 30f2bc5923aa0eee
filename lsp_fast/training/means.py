"""Averages of metrics between two rows of the log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor


class Means:
    """Tensors are only read when a row is made: until then nobody waits for their device."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Take 0-d tensors in."""
        for name, value in metrics.items():
            self._values[name].append(value.detach())

    def pop(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: self._stacked(values).float().mean().item() for name, values in self._values.items()}
        self._values.clear()
        return means

    def state_dict(self) -> dict[str, Tensor]:
        """What has come since the last row, for a checkpoint."""
        return {name: self._stacked(values).cpu() for name, values in self._values.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state_dict` was taken."""
        self._values = defaultdict(list, {name: list(values.unbind()) for name, values in state.items()})

    @staticmethod
    def _stacked(values: list[Tensor]) -> Tensor:
        # A checkpoint's values lie on the CPU, those since on a GPU; tensors of two devices do not stack.
        return torch.stack([value.to(values[-1].device) for value in values])
