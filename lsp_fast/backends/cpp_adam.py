"""Adam in C++ behind a `torch.optim.Adam`, which goes on holding the state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lsp_fast.backends.cpp import _threads, load
from lsp_fast.backends.fallback import CPP
from lsp_fast.backends.native_adam import Moments, NativeAdam
from lsp_fast.ops.adam import Step


def adam(holder: torch.optim.Adam, max_norm: float) -> Step:
    """`lsp_fast.ops.adam` in C++: the same contract from dense float32 tensors on the CPU, for anything else, or where
    the holder decays weights, maximises or is AMSGrad, the reference itself, which is said once.

    Results have the same bits on any number of threads. Gradients stay as they are. Squares do not overflow: a norm is
    infinite only where float32 has no such number.
    """
    return _Adam(holder, max_norm)


class _Adam(NativeAdam):
    learns = CPP

    def takes(self, parameters: Sequence[Tensor]) -> bool:
        return all(p.is_cpu for p in parameters)

    def make(self, tensors: list[Moments]) -> Any:
        return load().Adam(tuple(tuple(x.detach().numpy() for x in moments) for moments in tensors))

    def step(self, native: Any, gradients: Sequence[Tensor], group: dict[str, Any]) -> Tensor:
        gradients = [g if g.is_contiguous() else g.contiguous() for g in gradients]
        norm = native.step(
            tuple([g.data_ptr() for g in gradients]),
            float(group["lr"]),
            *group["betas"],
            group["eps"],
            self.max_norm,
            _threads(),
        )
        return torch.tensor(norm, dtype=torch.float32)
