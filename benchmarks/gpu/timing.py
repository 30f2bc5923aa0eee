"""Clocks: seconds of a call by device events, and how fast this device multiplies at most."""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpu.variants import MATMUL


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def release(device: torch.device) -> None:
    """Give back what a variant left over, so that the next one's memory is its own."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def sample(call: Callable[[int], Any], repeats: int, device: torch.device) -> float:
    """Seconds of one call: device events around `repeats` of them (the clock on the processor)."""
    if device.type != "cuda":
        begin = time.perf_counter()
        for i in range(repeats):
            call(i)
        return (time.perf_counter() - begin) / repeats
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for i in range(repeats):
        call(i)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats


def measure_peaks(args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """FLOP/s of a large product of random matrices in each precision."""
    n = 8192 if device.type == "cuda" else 256
    kinds = dict.fromkeys([*args.precisions, *(["bf16"] if device.type == "cuda" else [])])
    peaks = {}
    for kind in kinds:
        torch.set_float32_matmul_precision(MATMUL.get(kind, "highest"))
        dtype = torch.bfloat16 if kind == "bf16" else torch.float32
        generator = torch.Generator(device).manual_seed(3)
        a, b = (torch.randn(n, n, generator=generator, device=device).to(dtype) for _ in range(2))
        out = torch.empty(n, n, device=device, dtype=dtype)

        def product(_: int, a: Tensor = a, b: Tensor = b, out: Tensor = out) -> Tensor:
            return torch.mm(a, b, out=out)

        for i in range(3):
            product(i)
        peaks[kind] = 2 * n**3 / statistics.median(sample(product, 5, device) for _ in range(args.samples))
    release(device)
    return peaks
