"""Adam in C++ behind a `torch.optim.Adam`, which goes on holding the state."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lsp_fast import ops
from lsp_fast.backends.cpp import _threads, load
from lsp_fast.ops.adam import Step


def adam(holder: torch.optim.Adam, max_norm: float) -> Step:
    """`lsp_fast.ops.adam` in C++: the same contract from dense float32 tensors on the CPU, for anything else, or where
    the holder decays weights, maximises or is AMSGrad, the reference itself.

    Results have the same bits on any number of threads. Gradients stay as they are. Squares do not overflow: a norm is
    infinite only where float32 has no such number.
    """
    return _Adam(holder, max_norm)


class _Adam:
    def __init__(self, holder: torch.optim.Adam, max_norm: float) -> None:
        self._holder, self._max_norm = holder, max_norm
        self._reference = ops.adam(holder, max_norm)
        self._parameters = [p for group in holder.param_groups for p in group["params"]]
        self._shapes: list[torch.Size] = []
        self._places: list | None = None  # of what `_native` was made from
        self._native: Any = None  # None: the reference computes

    def __call__(self, gradients: Sequence[Tensor]) -> Tensor:
        group = self._holder.param_groups[0]
        if group["weight_decay"] or group["amsgrad"] or group["maximize"]:
            return self._reference(gradients)
        if self._places != self._where():
            self._collect()
        if self._native is None:
            return self._reference(gradients)
        gradients = [g if g.is_contiguous() else g.contiguous() for g in gradients]
        if [g.shape for g in gradients] != self._shapes or not all(map(_fits, gradients)):
            raise ValueError("there must be one float32 gradient on the CPU for each parameter, of its shape")
        norm = self._native.step(
            tuple([g.data_ptr() for g in gradients]),
            float(group["lr"]),
            *group["betas"],
            group["eps"],
            self._max_norm,
            _threads(),
        )
        return torch.tensor(norm, dtype=torch.float32)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Adam:
        # What is native belongs to the tensors it was made from; the copy makes its own.
        return _Adam(copy.deepcopy(self._holder, memo), self._max_norm)

    def _where(self) -> list:
        """Addresses of all that a step changes, and how parameters lie there. What `_native` holds is not freed:
        another tensor has another address."""
        state = self._holder.state.values()
        lying = [(p.data_ptr(), p.shape, p.stride()) for p in self._parameters]
        return lying + [x.data_ptr() for moments in state for x in moments.values()]

    def _collect(self) -> None:
        self._native, parameters, state = None, self._parameters, self._holder.state
        if len(self._holder.param_groups) == 1 and all(_fits(p) and p.is_contiguous() for p in parameters):
            for p in parameters:
                if not state[p]:  # as PyTorch's first step makes it
                    state[p]["step"] = torch.zeros((), dtype=torch.float32)
                    state[p]["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                    state[p]["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            tensors = [(p, state[p]["exp_avg"], state[p]["exp_avg_sq"], state[p]["step"]) for p in parameters]
            if all(_fits(x) and x.is_contiguous() for tensor in tensors for x in tensor):
                arrays = tuple(tuple(x.detach().numpy() for x in tensor) for tensor in tensors)
                self._native = load().Adam(arrays)
                self._shapes = [p.shape for p in parameters]
        self._places = self._where()


def _fits(x: Tensor) -> bool:
    return x.dtype is torch.float32 and x.is_cpu
