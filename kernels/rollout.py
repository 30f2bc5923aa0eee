"""A few rollouts' every step and layer in one kernel: a single state's plan is a chain of small layers, and launching a
kernel for each of them costs more than computing it.

Programs share out a layer's outputs and meet after it. They must therefore all run at once, which a cooperative launch
guarantees (or refuses).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .layers import INPUTS, gru_tile, keep, linear_tile, sample_tile

ROWS = 16
COLUMNS = 16  # of a tile: narrow ones share a layer among as many programs as possible
STAGES = {"bf16": 5, "tf32": 3, "ieee": 3}


@triton.jit
def _meet(counter, arrivals):
    """Wait until all programs have come as often as this one: `arrivals` calls in all."""
    tl.debug_barrier()  # the program's own threads have written
    tl.atomic_add(counter, 1, sem="release", scope="gpu")
    while tl.atomic_add(counter, 0, sem="acquire", scope="gpu") < arrivals:
        pass
    tl.debug_barrier()


@triton.jit
def _linear(
    x, x_stride, w, bias, out, width, columns,
    K: tl.constexpr, M: tl.constexpr, N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """This program's tiles of a layer: out[:, :columns], rows of `width`."""
    row = tl.arange(0, M)
    for tile in range(tl.program_id(0), columns // N, tl.num_programs(0)):
        column = tile * N + tl.arange(0, N)
        y = linear_tile(x, x_stride, w, bias, row, column, K, BLOCK_K, PRECISION, True)
        keep(out + row[:, None] * width + column[None, :], y, None, ROUND)


@triton.jit
def _rollout(
    x, x_stride, step_stride, stoch_at, deter_at, h, deter_stride, free, width, counter, steps, rows,
    w_first, b_first, w_rest, b_rest, rest, actor_columns, w_policy, b_policy, action_noise, actions,
    policy_min_std, mean_scale, offset, w_inp, b_inp, inp_columns, w_ih, w_hh, b_ih, b_hh, deter_columns, deter,
    w_hidden, b_hidden, hidden_columns, w_out, b_out, stoch_noise, stoch, min_std,
    K_FIRST: tl.constexpr, K_REST: tl.constexpr, K_INP: tl.constexpr, K_X: tl.constexpr, K_H: tl.constexpr,
    K_HIDDEN: tl.constexpr, K_OUT: tl.constexpr, ACTIONS: tl.constexpr, STOCH: tl.constexpr, NOISE: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_INP: tl.constexpr,
    PRECISION: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    programs, row = tl.num_programs(0), tl.arange(0, M)
    arrivals = programs
    for t in range(steps):
        now = x + t * step_stride
        then = now + step_stride
        _linear(
            now + stoch_at, x_stride, w_first, b_first, free, width, actor_columns,
            K_FIRST, M, N, BLOCK_K, PRECISION, ROUND,
        )  # fmt: skip
        _meet(counter, arrivals)
        arrivals += programs
        for layer in range(rest):
            given, into = free + (layer % 2) * M * width, free + ((layer + 1) % 2) * M * width
            _linear(
                given, width, w_rest + layer * actor_columns * K_REST, b_rest + layer * actor_columns, into, width,
                actor_columns, K_REST, M, N, BLOCK_K, PRECISION, ROUND,
            )  # fmt: skip
            _meet(counter, arrivals)
            arrivals += programs
        if tl.program_id(0) == 0:
            sample_tile(
                free + (rest % 2) * M * width, width, w_policy, b_policy, action_noise + t * rows * actions, now,
                x_stride, rows, actions, policy_min_std, mean_scale, offset, row,
                K_REST, ACTIONS, BLOCK_K, True, NOISE, PRECISION, ROUND, True,
            )  # fmt: skip
        _meet(counter, arrivals)
        arrivals += programs
        # Free of the actor's last layer, which only the first program read.
        into = free + ((rest + 1) % 2) * M * width
        _linear(now, x_stride, w_inp, b_inp, into, width, inp_columns, K_INP, M, N, BLOCK_INP, PRECISION, ROUND)
        _meet(counter, arrivals)
        arrivals += programs
        for tile in range(tl.program_id(0), deter_columns // N, programs):
            gru_tile(
                into, width, now + deter_at, x_stride, w_ih, w_hh, b_ih, b_hh, h, deter_stride,
                then + deter_at, x_stride, deter_columns, deter, row, tile * N + tl.arange(0, N),
                K_X, K_H, BLOCK_K, PRECISION, ROUND, True,
            )  # fmt: skip
        _meet(counter, arrivals)
        arrivals += programs
        _linear(
            then + deter_at, x_stride, w_hidden, b_hidden, free, width, hidden_columns,
            K_HIDDEN, M, N, BLOCK_K, PRECISION, ROUND,
        )  # fmt: skip
        _meet(counter, arrivals)
        arrivals += programs
        if tl.program_id(0) == 0:
            sample_tile(
                free, width, w_out, b_out, stoch_noise + t * rows * stoch, then + stoch_at, x_stride, rows, stoch,
                min_std, 1.0, 0.0, row, K_OUT, STOCH, BLOCK_K, False, True, PRECISION, ROUND, True,
            )  # fmt: skip
        _meet(counter, arrivals)
        arrivals += programs


def rollout(packed: Any, x: Tensor, h: Tensor, noise: Tensor, action: Tensor | None, n: int) -> None:
    """What `ImagineHeads._rollout` does, for at most ROWS rollouts.

    Args:
        packed: the `ImagineHeads` whose weights these are.
        x: [H + 1, ROWS, row]; h: [ROWS, .] fp32.
        noise: [H, n, S]; action: [H, n, A] or None.
    """
    p, w = packed, packed.widths
    first, rest = p.actor[0], p.actor[1:]
    more = rest[0] if rest else first
    widest = max(len(layer.weight) for layer in (first, p.inp, p.hidden))
    widest += -widest % INPUTS  # what is read of a row lies in it
    free = torch.zeros(2, ROWS, widest, dtype=x.dtype, device=x.device)
    counter = torch.zeros(1, dtype=torch.int32, device=x.device)
    # The interpreter runs programs one after another: only one of them never waits.
    programs = 1 if p.interpreted else widest // COLUMNS
    options = {} if p.interpreted else {"launch_cooperative_grid": True}
    _rollout[(programs,)](
        x, x.stride(1), x.stride(0), w.begin("stoch"), w.begin("deter"), h, h.stride(0), free, widest, counter,
        len(noise), n, first.weight, first.bias, more.weight, more.bias, len(rest), len(first.weight),
        p.policy.weight, p.policy.bias, p.policy.bias if action is None else action, w.action, *p.limits,
        p.inp.weight, p.inp.bias, len(p.inp.weight), p.gru_x.weight, p.gru_h.weight, p.gru_x.bias, p.gru_h.bias,
        len(p.gru_x.weight) // 3, w.deter, p.hidden.weight, p.hidden.bias, len(p.hidden.weight),
        p.out.weight, p.out.bias, noise, w.stoch, p.min_std,
        K_FIRST=first.weight.shape[1], K_REST=more.weight.shape[1] if rest else p.policy.weight.shape[1],
        K_INP=p.inp.weight.shape[1], K_X=p.gru_x.weight.shape[1], K_H=p.gru_h.weight.shape[1],
        K_HIDDEN=p.hidden.weight.shape[1], K_OUT=p.out.weight.shape[1],
        ACTIONS=len(p.policy.weight) // 2, STOCH=len(p.out.weight) // 2, NOISE=action is not None,
        M=ROWS, N=COLUMNS, BLOCK_K=INPUTS, BLOCK_INP=math.gcd(p.inp.weight.shape[1], INPUTS),
        PRECISION=p.dot, ROUND=p.round, num_warps=4,
        num_stages=STAGES[p.kind], enable_fp_fusion=True, **options,
    )  # fmt: skip
