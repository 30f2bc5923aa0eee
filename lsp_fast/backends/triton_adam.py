"""Adam in Triton behind a `torch.optim.Adam`, which goes on holding the state."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lsp_fast import ops
from lsp_fast.backends.fallback import TRITON, say_once
from lsp_fast.kernels import adam as kernels
from lsp_fast.ops.adam import Step


def adam(holder: torch.optim.Adam, max_norm: float) -> Step:
    """`lsp_fast.ops.adam` in Triton: the same contract from dense float32 tensors, for anything else, or where the
    holder decays weights, maximises or is AMSGrad, the reference itself, which is said once.

    A step is three kernels, of which a CUDA graph can be made once a step has been taken. The same gradients give the
    same bits. Gradients stay as they are.
    """
    return _Adam(holder, max_norm)


class _Adam:
    def __init__(self, holder: torch.optim.Adam, max_norm: float) -> None:
        self._holder, self._max_norm = holder, max_norm
        self._reference = ops.adam(holder, max_norm)
        self._parameters = [p for group in holder.param_groups for p in group["params"]]
        self._places: list | None = None  # of what the tables were made from
        self._tables: tuple[Tensor, Tensor] | None = None  # None: the reference computes

    def __call__(self, gradients: Sequence[Tensor]) -> Tensor:
        group = self._holder.param_groups[0]
        if group["weight_decay"] or group["amsgrad"] or group["maximize"] or 0 in group["betas"]:
            say_once("adam", "with weight decay, AMSGrad, maximising, or without a moment", TRITON)
            return self._reference(gradients)
        if self._places != self._where():
            self._collect()
        if self._tables is None:
            say_once("adam", "for several groups, or other tensors than dense ones in float32", TRITON)
            return self._reference(gradients)
        shapes = [p.shape for p in self._parameters]
        if [g.shape for g in gradients] != shapes or not all(g.dtype is torch.float32 for g in gradients):
            raise ValueError("there must be one float32 gradient for each parameter, of its shape")
        flat = torch.cat([g.reshape(-1) for g in gradients])
        return kernels.step(flat, *self._tables, self._max_norm, float(group["lr"]), group["betas"], group["eps"])

    def __deepcopy__(self, memo: dict[int, Any]) -> _Adam:
        # The tables belong to the tensors they were made from; the copy makes its own.
        return _Adam(copy.deepcopy(self._holder, memo), self._max_norm)

    def _where(self) -> list:
        """Addresses of all that a step changes, and how parameters lie there."""
        state = self._holder.state.values()
        lying = [(p.data_ptr(), p.shape, p.stride(), p.dtype) for p in self._parameters]
        return lying + [(x.data_ptr(), x.dtype) for moments in state for x in moments.values()]

    def _collect(self) -> None:
        self._tables, parameters, state = None, self._parameters, self._holder.state
        if len(self._holder.param_groups) == 1 and any(p.numel() for p in parameters) and all(map(_fits, parameters)):
            for p in parameters:
                if not state[p]:  # as PyTorch's first step makes it
                    state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                    state[p]["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                    state[p]["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            names = "exp_avg", "exp_avg_sq", "step"
            tensors = [(p, *(state[p][name] for name in names)) for p in parameters]
            device = parameters[0].device
            if all(_fits(x) and x.device == device for tensor in tensors for x in tensor):
                table, owner = (_put(rows, device) for rows in kernels.tables(tensors))
                self._tables = table, owner
        self._places = self._where()


def _put(rows: list[list[int]], device: torch.device) -> Tensor:
    """Numbers on the device, without waiting for it."""
    numbers = torch.tensor(rows, dtype=torch.int64)
    if device.type == "cuda":
        numbers = numbers.pin_memory()
    return numbers.to(device, non_blocking=True)


def _fits(x: Tensor) -> bool:
    return x.dtype is torch.float32 and x.is_contiguous()
