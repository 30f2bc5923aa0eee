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


CPP = "C++ learns in float32 on a processor"
TRITON = "Triton's kernels learn in float32"
"""What a backend learns in, as a warning says it."""


def fits_cpp(name: str, *tensors: Tensor) -> bool:
    """Whether the extension computes with these tensors: float32 on the CPU, and no autocast, which wants bf16. Where
    it does not, that is said once."""
    return _fits(name, tensors, "cpu", CPP)


def fits_triton(name: str, *tensors: Tensor) -> bool:
    """Whether kernels compute with these tensors: float32, and no autocast. Where they do not, that is said once."""
    device = tensors[0].device.type
    return _fits(name, tensors, device, TRITON)


def _fits(name: str, tensors: tuple[Tensor, ...], device: str, learns: str) -> bool:
    if torch.is_autocast_enabled("cpu" if device == "meta" else device):
        say_once(name, "under autocast", learns, 5)
        return False
    for x in tensors:
        if x.dtype != torch.float32 or x.device.type != device:
            say_once(name, f"in {x.dtype} on {x.device.type}", learns, 5)
            return False
    return True


@functools.cache
def say_once(name: str, when: str, learns: str, frames: int = 3) -> None:
    """Warn that an operation is the reference's now, and slower; the cache keeps it to one line a reason.

    Args:
        learns: CPP or TRITON.
        frames: from the warning to who called the operation; 3 where the operation itself warns.
    """
    warnings.warn(f"{name}: the reference computes {when}; {learns}", stacklevel=frames)
