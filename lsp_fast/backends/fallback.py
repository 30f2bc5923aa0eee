"""What native operations say where they leave the work to the reference, or refuse it."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor


def refuse_twice(name: str) -> None:
    """Raise RuntimeError where a gradient is asked for that could itself be differentiated."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{name}: the gradient of its gradient is not there natively; leave create_graph out, or use --backend "
            "reference"
        )


def fits_triton(name: str, *tensors: Tensor) -> bool:
    """Whether kernels compute with these tensors: float32, and no autocast, which wants bf16. Where they do not, that
    is said once."""
    device = tensors[0].device.type
    if torch.is_autocast_enabled("cpu" if device == "meta" else device):
        say_once(name, "under autocast")
        return False
    for x in tensors:
        if x.dtype != torch.float32:
            say_once(name, f"in {x.dtype}")
            return False
    return True


@functools.cache
def say_once(name: str, when: str) -> None:
    """Warn that an operation is the reference's now, and slower; the cache keeps it to one line a reason."""
    warnings.warn(f"{name}: the reference computes {when}; Triton's kernels learn in float32", stacklevel=4)
