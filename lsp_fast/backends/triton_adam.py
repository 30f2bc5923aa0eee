"""Adam in Triton behind a `torch.optim.Adam`, which goes on holding the state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lsp_fast.backends.fallback import TRITON
from lsp_fast.backends.native_adam import Moments, NativeAdam
from lsp_fast.kernels import adam as kernels
from lsp_fast.ops.adam import Step


def adam(holder: torch.optim.Adam, max_norm: float) -> Step:
    """`lsp_fast.ops.adam` in Triton: the same contract from dense float32 tensors, for anything else, or where the
    holder decays weights, maximises, is AMSGrad or has no moment, the reference itself, which is said once.

    A step is three kernels, of which a CUDA graph can be made once a step has been taken. The same gradients give the
    same bits. Gradients stay as they are.
    """
    return _Adam(holder, max_norm)


class _Adam(NativeAdam):
    learns = TRITON
    lacks = "with weight decay, AMSGrad, maximising, or without a moment"

    def knows(self, group: dict[str, Any]) -> bool:
        return super().knows(group) and 0 not in group["betas"]

    def takes(self, parameters: Sequence[Tensor]) -> bool:
        return any(p.numel() for p in parameters)

    def make(self, tensors: list[Moments]) -> tuple[Tensor, Tensor]:
        device = tensors[0][0].device
        table, owner = (_put(rows, device) for rows in kernels.tables(tensors))
        return table, owner

    def step(self, native: Any, gradients: Sequence[Tensor], group: dict[str, Any]) -> Tensor:
        table, owner = native
        flat = torch.cat([g.reshape(-1) for g in gradients])
        return kernels.step(flat, table, owner, self.max_norm, float(group["lr"]), group["betas"], group["eps"])


def _put(rows: list[list[int]], device: torch.device) -> Tensor:
    """Numbers on the device, without waiting for it."""
    numbers = torch.tensor(rows, dtype=torch.int64)
    if device.type == "cuda":
        numbers = numbers.pin_memory()
    return numbers.to(device, non_blocking=True)
