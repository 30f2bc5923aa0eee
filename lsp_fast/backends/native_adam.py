"""What Adam's native steps share: a `torch.optim.Adam` holds the state, and the reference takes the steps that they do
not know."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lsp_fast import ops
from lsp_fast.backends.fallback import say_once

Moments = tuple[Tensor, Tensor, Tensor, Tensor]
"""A parameter, the means of its gradients and of their squares, and how many steps there were."""


class NativeAdam(ABC):
    """`lsp_fast.ops.adam` from dense float32 tensors of one group; of anything else the reference's step, which is said
    once. What is native belongs to the tensors that it was made from, and is made anew where they change."""

    learns: ClassVar[str]
    """What the backend learns in, as its warnings say it."""
    lacks: ClassVar[str] = "with weight decay, AMSGrad or maximising"
    """What of the holder's options the reference computes."""

    def __init__(self, holder: torch.optim.Adam, max_norm: float) -> None:
        self.max_norm = max_norm
        self._holder = holder
        self._reference = ops.adam(holder, max_norm)
        self._parameters = [p for group in holder.param_groups for p in group["params"]]
        self._shapes = [p.shape for p in self._parameters]
        self._places: list | None = None  # of what `_native` was made from
        self._native: Any = None  # None: the reference computes

    @abstractmethod
    def takes(self, parameters: Sequence[Tensor]) -> bool:
        """Whether there is a native step of these, float32, contiguous and on one device."""

    @abstractmethod
    def make(self, tensors: list[Moments]) -> Any:
        """What steps these tensors."""

    @abstractmethod
    def step(self, native: Any, gradients: Sequence[Tensor], group: dict[str, Any]) -> Tensor:
        """Take a step of what was made, along gradients of the tensors' shapes and kind; their norm, 0-d.

        Args:
            group: the holder's, with its rates.
        """

    def knows(self, group: dict[str, Any]) -> bool:
        """Whether there is a native step with these options of the holder's."""
        return not (group["weight_decay"] or group["amsgrad"] or group["maximize"])

    def __call__(self, gradients: Sequence[Tensor]) -> Tensor:
        group = self._holder.param_groups[0]
        if not self.knows(group):
            say_once("adam", self.lacks, self.learns)
            return self._reference(gradients)
        if self._places != self._where():
            self._collect()
        if self._native is None:
            say_once(
                "adam", "for several groups, or other tensors than dense ones in float32 on its device", self.learns
            )
            return self._reference(gradients)
        device = self._parameters[0].device
        same = [g.shape for g in gradients] == self._shapes
        if not same or not all(g.dtype is torch.float32 and g.device == device for g in gradients):
            raise ValueError(f"there must be one float32 gradient on {device} for each parameter, of its shape")
        return self.step(self._native, gradients, group)

    def __deepcopy__(self, memo: dict[int, Any]) -> NativeAdam:
        # The copy makes what is native of its own tensors.
        return type(self)(copy.deepcopy(self._holder, memo), self.max_norm)

    def _where(self) -> list:
        """Addresses of all that a step changes, and how parameters lie there. What `_native` holds is not freed:
        another tensor has another address."""
        state = self._holder.state.values()
        lying = [(p.data_ptr(), p.shape, p.stride(), p.dtype) for p in self._parameters]
        return lying + [(x.data_ptr(), x.dtype) for moments in state for x in moments.values()]

    def _collect(self) -> None:
        self._native, parameters, state = None, self._parameters, self._holder.state
        if len(self._holder.param_groups) == 1 and _dense(parameters) and self.takes(parameters):
            for p in parameters:
                if not state[p]:  # as PyTorch's first step makes it
                    state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                    state[p]["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                    state[p]["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            tensors = [(p, state[p]["exp_avg"], state[p]["exp_avg_sq"], state[p]["step"]) for p in parameters]
            if _dense([x for moments in tensors for x in moments]):
                self._native = self.make(tensors)
        self._places = self._where()


def _dense(tensors: Sequence[Tensor]) -> bool:
    return all(x.dtype is torch.float32 and x.is_contiguous() and x.device == tensors[0].device for x in tensors)
