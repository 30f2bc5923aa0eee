"""The choice of elites and their refit in Triton: a program for every start state."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

OTHERS = 32  # that a candidate is compared with at a time


@triton.jit
def _select(
    values, plans, mean, std, new_mean, new_std, indices,
    floor, candidates, size, elites, G: tl.constexpr, SIZE: tl.constexpr, OTHERS: tl.constexpr,
):  # fmt: skip
    state = tl.program_id(0).to(tl.int64)
    g = tl.arange(0, G)
    value = tl.load(values + state * candidates + g, mask=g < candidates, other=float("nan"))
    # How many are better, or as good and earlier: a candidate's place. Comparisons need not wait for one another, as a
    # search for one elite after the other would.
    place = tl.zeros([G], tl.int32)
    for begin in range(0, candidates, OTHERS):
        j = begin + tl.arange(0, OTHERS)
        other = tl.load(values + state * candidates + j, mask=j < candidates, other=float("nan"))[None, :]
        better = (other > value[:, None]) | ((other == value[:, None]) & (j[None, :] < g[:, None]))
        place += tl.sum(better.to(tl.int32), 1)
    chosen = (value == value) & (place < elites)  # a NaN never
    count = tl.sum(chosen.to(tl.int32), 0)
    tl.store(indices + state * elites + place, g.to(tl.int64), mask=chosen)
    tl.store(indices + state * elites + g, tl.full([G], -1, tl.int64), mask=(g >= count) & (g < elites))
    number = tl.maximum(count, 1).to(tl.float32)
    for begin in range(0, size, SIZE):
        d = begin + tl.arange(0, SIZE)
        inside = d < size
        at = plans + (state * candidates + g[:, None]) * size + d[None, :]
        kept = chosen[:, None] & inside[None, :]
        elite = tl.load(at, mask=kept, other=0.0)  # [G, SIZE]
        average = tl.sum(elite, 0) / number
        off = tl.where(kept, elite - average[None, :], 0.0)
        deviation = tl.sqrt_rn(tl.sum(off * off, 0) / number + floor)
        here = state * size + d
        tl.store(new_mean + here, tl.where(count > 0, average, tl.load(mean + here, mask=inside)), mask=inside)
        tl.store(new_std + here, tl.where(count > 0, deviation, tl.load(std + here, mask=inside)), mask=inside)


def block(candidates: int, size: int) -> tuple[int, int, int]:
    """G and SIZE of the kernel, and warps enough for so many numbers of each plan to stay in registers."""
    g = triton.next_power_of_2(candidates)
    numbers = min(triton.next_power_of_2(max(size, 1)), max(1, 16384 // g))
    return g, numbers, min(32, max(1, g * numbers // 2048))


def select_elites(
    values: Tensor, plans: Tensor, num_elites: int, mean: Tensor, std: Tensor, floor: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor]:
    """values [N, G], plans [N, G, P, Z], mean and std [N, P, Z], float32 -> mean, std, indices [N, M] int64."""
    values, plans, mean, std = (x.contiguous() for x in (values, plans, mean, std))
    (states, candidates), size = values.shape, mean.shape[1] * mean.shape[2]
    new_mean, new_std = torch.empty_like(mean), torch.empty_like(std)
    indices = torch.empty(states, num_elites, dtype=torch.int64, device=values.device)
    if states:
        g, numbers, warps = block(candidates, size)
        _select[(states,)](
            values, plans, mean, std, new_mean, new_std, indices, floor, candidates, size, num_elites, g, numbers,
            min(g, OTHERS), num_warps=warps, enable_fp_fusion=True,
        )  # fmt: skip
    return new_mean, new_std, indices
