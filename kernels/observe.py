"""Filtering sequences in Triton: the recurrence of all steps in one kernel forward, and in one backward.

A step is a chain of small layers, which takes longer to launch than to compute. What does not wait for the step before
(the embeddings' share of a layer, the prior, the weights' gradients) is not here: those are products of all steps.

Rows, which are sequences, are dealt out in sixteens to teams of programs. The members of a team share out a layer's
outputs and meet after it, and must therefore all run at once, which a cooperative launch guarantees (or refuses). Of
different teams none waits for another. A small layer that all outputs of the next one need is computed by every member
for itself: that takes no longer than to wait for it. Nothing is padded: what is read beyond an edge is masked to 0.

What a kernel writes for others to read, it writes once, at the place of its step: nothing read can be out of date.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import imagine_heads
from .layers import elu, softplus, tanh
from .rollout import _meet
from .unpadded import elu_slope, given, multiply, product, read, three_products, weights

ROWS = 16
COLUMNS = 16  # of a tile: narrow ones share a layer among as many programs as possible
INPUTS = {"tf32": 32, "ieee": 16}  # a step of a product
STAGES = 4
REGISTERS = 255  # a thread's at most: a program may have a multiprocessor to itself, and keeps everything in them
WIDEST = 128
"""Latents or actions at most: a tile of the small layers holds all of them."""


@triton.jit
def _kept(is_first, first_step, first_row, t, row, live):
    """1 for the rows [M] whose state goes on into step t, 0 where an episode begins."""
    begins = tl.load(is_first + t * first_step + row * first_row, mask=live, other=0)
    return tl.where(begins != 0, 0.0, 1.0)


@triton.jit
def _enter(
    s, kept, live, at, row, t, actions, action_step, action_row, w, bias, inputs, x,
    S: tl.constexpr, A: tl.constexpr, U: tl.constexpr, WIDTH: tl.constexpr, A_WIDTH: tl.constexpr, N: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """x_t = elu(W [s, a] + b) of the latent state s [M, WIDTH] before; `inputs` gets what it saw."""
    i, j = tl.arange(0, WIDTH), tl.arange(0, A_WIDTH)
    s *= kept[:, None]
    acted = live[:, None] & (j < A)[None, :]
    a = tl.load(actions + t * action_step + row[:, None] * action_row + j[None, :], mask=acted, other=0.0)
    a *= kept[:, None]
    if tl.program_id(0) == 0:
        seen = inputs + at[:, None] * (S + A)
        tl.store(seen + i[None, :], s, mask=live[:, None] & (i < S)[None, :])
        tl.store(seen + S + j[None, :], a, mask=acted)
    for tile in range(tl.program_id(0), (U + N - 1) // N, tl.num_programs(0)):
        column = tile * N + tl.arange(0, N)
        there = column < U
        y = tl.zeros([s.shape[0], N], tl.float32) + tl.load(bias + column, mask=there, other=0.0)[None, :]
        y = multiply(s, weights(w, i, column, S, U, 1, S + A), y, PRECISION)
        y = multiply(a, weights(w + S, j, column, A, U, 1, S + A), y, PRECISION)
        tl.store(x + at[:, None] * U + column[None, :], elu(y), mask=live[:, None] & there[None, :])


@triton.jit
def _forward(
    from_embedding, actions, action_step, action_row, is_first, first_step, first_row, noise,
    w_inp, b_inp, w_ih, w_hh, b_ih, b_hh, w_hidden, w_out, b_out, min_std,
    stoch, deter, mean, std, slope, inputs, before, x, gates, u, counter, steps, rows,
    S: tl.constexpr, A: tl.constexpr, D: tl.constexpr, U: tl.constexpr, V: tl.constexpr, SEEN: tl.constexpr,
    WIDTH: tl.constexpr, A_WIDTH: tl.constexpr, M: tl.constexpr, N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    member, members, team, teams = tl.program_id(0), tl.num_programs(0), tl.program_id(1), tl.num_programs(1)
    i = tl.arange(0, WIDTH)
    inside = i < S
    arrivals = members
    for begin in range(team * M, rows, teams * M):
        row = begin + tl.arange(0, M)
        live = row < rows
        kept = _kept(is_first, first_step, first_row, 0, row, live)
        _enter(
            tl.zeros([M, WIDTH], tl.float32), kept, live, row.to(tl.int64), row, 0, actions, action_step, action_row,
            w_inp, b_inp, inputs, x, S, A, U, WIDTH, A_WIDTH, N, PRECISION,
        )  # fmt: skip
        _meet(counter + team, arrivals)
        arrivals += members
        for t in range(steps):
            at = (t * rows + row).to(tl.int64)
            then, step = at + rows, tl.zeros([M], tl.int32) + t
            goes_on, held = live & (step + 1 < steps), live & (step > 0)  # there is a state after, and one before
            kept = _kept(is_first, first_step, first_row, t + 1, row, goes_on)

            for tile in range(member, (D + N - 1) // N, members):
                column = tile * N + tl.arange(0, N)
                there = column < D
                none = tl.zeros([M, N], tl.float32)
                reset, update, entering = three_products(
                    none, none, none, x, at, live, w_ih, column, U, D, BLOCK_K, PRECISION
                )
                reset, update, recalled = three_products(
                    reset, update, none, before, at, held, w_hh, column, D, D, BLOCK_K, PRECISION
                )
                b, c = b_ih + column, b_hh + column
                reset += (tl.load(b, mask=there, other=0.0) + tl.load(c, mask=there, other=0.0))[None, :]
                update += (tl.load(b + D, mask=there, other=0.0) + tl.load(c + D, mask=there, other=0.0))[None, :]
                entering += tl.load(b + 2 * D, mask=there, other=0.0)[None, :]
                recalled += tl.load(c + 2 * D, mask=there, other=0.0)[None, :]
                reset, update = tl.sigmoid(reset), tl.sigmoid(update)
                candidate = tanh(entering + reset * recalled)
                h = read(before, D, at, held, column, D)
                h = candidate + update * (h - candidate)
                stored = live[:, None] & there[None, :]
                tl.store(deter + at[:, None] * D + column[None, :], h, mask=stored)
                into = before + then[:, None] * D + column[None, :]
                tl.store(into, h * kept[:, None], mask=goes_on[:, None] & there[None, :])
                into = gates + at[:, None] * (4 * D) + column[None, :]
                tl.store(into, reset, mask=stored)
                tl.store(into + D, update, mask=stored)
                tl.store(into + 2 * D, candidate, mask=stored)
                tl.store(into + 3 * D, recalled, mask=stored)
            _meet(counter + team, arrivals)
            arrivals += members

            for tile in range(member, (V + N - 1) // N, members):
                column = tile * N + tl.arange(0, N)
                stored = live[:, None] & (column < V)[None, :]
                y = tl.load(from_embedding + at[:, None] * V + column[None, :], mask=stored, other=0.0)
                y = product(y, deter, D, at, live, w_hidden, column, D, V, 1, SEEN, BLOCK_K, PRECISION)
                tl.store(u + at[:, None] * V + column[None, :], elu(y), mask=stored)
            _meet(counter + team, arrivals)
            arrivals += members

            m = tl.zeros([M, WIDTH], tl.float32) + tl.load(b_out + i, mask=inside, other=0.0)[None, :]
            raw = tl.zeros([M, WIDTH], tl.float32) + tl.load(b_out + S + i, mask=inside, other=0.0)[None, :]
            for first in range(0, V, BLOCK_K):
                k = first + tl.arange(0, BLOCK_K)
                a = read(u, V, at, live, k, V)
                m = multiply(a, weights(w_out, k, i, V, S, 1, V), m, PRECISION)
                raw = multiply(a, weights(w_out + S * V, k, i, V, S, 1, V), raw, PRECISION)
            stored = live[:, None] & inside[None, :]
            number = at[:, None] * S + i[None, :]
            deviation = softplus(raw) + min_std
            s = m + deviation * tl.load(noise + number, mask=stored, other=0.0)
            if member == 0:
                tl.store(mean + number, m, mask=stored)
                tl.store(std + number, deviation, mask=stored)
                tl.store(slope + number, tl.sigmoid(raw), mask=stored)
                tl.store(stoch + number, s, mask=stored)
            _enter(
                s, kept, goes_on, then, row, t + 1, actions, action_step, action_row, w_inp, b_inp, inputs, x,
                S, A, U, WIDTH, A_WIDTH, N, PRECISION,
            )  # fmt: skip
            _meet(counter + team, arrivals)
            arrivals += members


@triton.jit
def _backward(
    d_stoch, d_stoch_row, d_deter, d_deter_row, d_mean, d_mean_row, d_std, d_std_row, from_prior,
    is_first, first_step, first_row, noise, slope, before, x, gates, u, w_inp, w_ih, w_hh, w_hidden, w_out,
    d, carry, counter, steps, rows,
    S: tl.constexpr, A: tl.constexpr, D: tl.constexpr, U: tl.constexpr, V: tl.constexpr, SEEN: tl.constexpr,
    WIDE: tl.constexpr, TO_X: tl.constexpr, TO_I: tl.constexpr, TO_H: tl.constexpr, TO_U: tl.constexpr,
    TO_O: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    member, members, team, teams = tl.program_id(0), tl.num_programs(0), tl.program_id(1), tl.num_programs(1)
    i = tl.arange(0, WIDTH)
    inside = i < S
    arrivals = members
    for begin in range(team * M, rows, teams * M):
        row = begin + tl.arange(0, M)
        live = row < rows
        for back in range(steps):
            t = steps - 1 - back
            at = (t * rows + row).to(tl.int64)
            step = tl.zeros([M], tl.int32) + t
            follows, held = live & (step + 1 < steps), live & (step > 0)

            # The latent state's gradient, what it is for mean and raw deviation, and the hidden layer's.
            g = tl.zeros([M, WIDTH], tl.float32)
            g = product(g, d + TO_X, WIDE, at + rows, follows, w_inp, i, U, S, S + A, 1, BLOCK_K, PRECISION)
            g *= _kept(is_first, first_step, first_row, t + 1, row, follows)[:, None]
            latent = live[:, None] & inside[None, :]
            number = at[:, None] * S + i[None, :]
            g += given(d_stoch, d_stoch_row, at, i, latent)
            m = g + given(d_mean, d_mean_row, at, i, latent)
            g = g * tl.load(noise + number, mask=latent, other=0.0) + given(d_std, d_std_row, at, i, latent)
            raw = g * tl.load(slope + number, mask=latent, other=0.0)
            if member == 0:
                out = d + at[:, None] * WIDE + TO_O + i[None, :]
                tl.store(out, m, mask=latent)
                tl.store(out + S, raw, mask=latent)
            for tile in range(member, (V + N - 1) // N, members):
                column = tile * N + tl.arange(0, N)
                stored = live[:, None] & (column < V)[None, :]
                y = tl.zeros([M, N], tl.float32)
                y = multiply(m, weights(w_out, i, column, S, V, V, 1), y, PRECISION)
                y = multiply(raw, weights(w_out + S * V, i, column, S, V, V, 1), y, PRECISION)
                y *= elu_slope(tl.load(u + at[:, None] * V + column[None, :], mask=stored, other=0.0))
                tl.store(d + at[:, None] * WIDE + TO_U + column[None, :], y, mask=stored)
            _meet(counter + team, arrivals)
            arrivals += members

            # The deterministic state's, and the gates'.
            for tile in range(member, (D + N - 1) // N, members):
                column = tile * N + tl.arange(0, N)
                stored = live[:, None] & (column < D)[None, :]
                passed = carry + row[:, None] * D + column[None, :]
                y = tl.load(passed, mask=follows[:, None] & (column < D)[None, :], other=0.0)
                y += given(d_deter, d_deter_row, at, column, stored) + given(from_prior, D, at, column, stored)
                y = product(y, d + TO_U, WIDE, at, live, w_hidden, column, V, D, SEEN, 1, BLOCK_K, PRECISION)
                into = gates + at[:, None] * (4 * D) + column[None, :]
                reset = tl.load(into, mask=stored, other=0.0)
                update = tl.load(into + D, mask=stored, other=0.0)
                candidate = tl.load(into + 2 * D, mask=stored, other=0.0)
                recalled = tl.load(into + 3 * D, mask=stored, other=0.0)
                h = tl.load(
                    before + at[:, None] * D + column[None, :], mask=held[:, None] & (column < D)[None, :], other=0.0
                )
                to_new = y * (1.0 - update) * (1.0 - candidate * candidate)
                to_reset = to_new * recalled * reset * (1.0 - reset)
                to_update = y * (h - candidate) * update * (1.0 - update)
                into = d + at[:, None] * WIDE + TO_I + column[None, :]
                tl.store(into, to_reset, mask=stored)
                tl.store(into + D, to_update, mask=stored)
                tl.store(into + 2 * D, to_new, mask=stored)
                into = d + at[:, None] * WIDE + TO_H + column[None, :]
                tl.store(into, to_reset, mask=stored)
                tl.store(into + D, to_update, mask=stored)
                tl.store(into + 2 * D, to_new * reset, mask=stored)
                tl.store(passed, y * update, mask=stored)
            _meet(counter + team, arrivals)
            arrivals += members

            # The transition's first layer's, and what goes on to the deterministic state before.
            for tile in range(member, (U + N - 1) // N, members):
                column = tile * N + tl.arange(0, N)
                stored = live[:, None] & (column < U)[None, :]
                y = tl.zeros([M, N], tl.float32)
                y = product(y, d + TO_I, WIDE, at, live, w_ih, column, 3 * D, U, U, 1, BLOCK_K, PRECISION)
                y *= elu_slope(tl.load(x + at[:, None] * U + column[None, :], mask=stored, other=0.0))
                tl.store(d + at[:, None] * WIDE + TO_X + column[None, :], y, mask=stored)
            kept = _kept(is_first, first_step, first_row, t, row, live)
            for tile in range(member, (D + N - 1) // N, members):
                column = tile * N + tl.arange(0, N)
                stored = held[:, None] & (column < D)[None, :]
                passed = carry + row[:, None] * D + column[None, :]
                y = tl.load(passed, mask=stored, other=0.0)
                y = product(y, d + TO_H, WIDE, at, held, w_hh, column, 3 * D, D, D, 1, BLOCK_K, PRECISION)
                tl.store(passed, y * kept[:, None], mask=stored)
            _meet(counter + team, arrivals)
            arrivals += members


class Filtered(NamedTuple):
    """What `forward` finds, fp32."""

    stoch: Tensor  # [L, B, S]
    deter: Tensor  # [L, B, D]
    mean: Tensor  # [L, B, S], of the posterior
    std: Tensor  # [L, B, S]


class Kept(NamedTuple):
    """What `backward` needs of it besides, fp32."""

    slope: Tensor  # [L, B, S], of the softplus that std comes from
    inputs: Tensor  # [L, B, S + A], what the transition sees: at a reset zeros
    before: Tensor  # [L, B, D], the deterministic state that the GRU sees; that of the first step is not written
    x: Tensor  # [L, B, U], the transition's first layer
    gates: Tensor  # [L, B, 4D]: reset, update, candidate, and the state's share of the candidate
    u: Tensor  # [L, B, V], the posterior's hidden layer


class Places(NamedTuple):
    """Where each layer's gradients lie in a row of them all."""

    x: int  # U
    i: int  # 3D, of the gates by their input
    h: int  # 3D, of the gates by the state
    u: int  # V
    out: int  # 2S
    prior: int  # the prior's hidden layer
    prior_out: int  # 2S
    width: int


def places(prior: Any, posterior: Any) -> Places:
    """Of a network's layers; each begins at a multiple of four numbers, as products want them."""
    gates = len(prior.gru.weight_ih)
    layers = (prior.inp, posterior.hidden, posterior.out, prior.hidden, prior.out)
    x, u, out, hidden, prior_out = (len(layer.weight) for layer in layers)
    found = [0]
    for size in (x, gates, gates, u, out, hidden, prior_out):
        found.append(found[-1] + size + -size % 4)
    return Places(*found)


def grid(rows: int, widest: int, device: torch.device) -> tuple[int, int]:
    """Members of a team, and teams: at most a program for each multiprocessor, so that all of them run at once."""
    teams, members = triton.cdiv(rows, ROWS), triton.cdiv(widest, COLUMNS)
    if imagine_heads.INTERPRETED:
        # It runs programs one after another: only one that is alone never waits.
        return 1, teams
    # Elsewhere launches are only counted, for as many as an H100 has.
    most = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132
    members = min(members, most)
    return members, min(teams, most // members)


def _sizes(prior: Any, posterior: Any) -> dict[str, int]:
    s = len(prior.out.weight) // 2
    u, width = prior.inp.weight.shape
    v, seen = posterior.hidden.weight.shape
    sizes = {"S": s, "A": width - s, "D": prior.gru.weight_hh.shape[1], "U": u, "V": v, "SEEN": seen}
    return {**sizes, "WIDTH": max(16, triton.next_power_of_2(s)), "M": ROWS, "N": COLUMNS}


def forward(
    from_embedding: Tensor, actions: Tensor, is_first: Tensor, noise: Tensor, prior: Any, posterior: Any, precision: str
) -> tuple[Filtered, Kept]:
    """The recurrence of `lsp_fast.ops.observe`; weights are contiguous, everything but is_first fp32.

    Args:
        from_embedding: [L, B, V], the embeddings' share of the posterior's hidden layer, with its bias; contiguous.
        actions: [L, B, A], each row contiguous.
        is_first: [L, B] bool.
        noise: [L, B, S], contiguous.
        prior, posterior: weight tuples.
        precision: what products multiply, tf32 or ieee (fp32).
    """
    (steps, rows, _), sizes = noise.shape, _sizes(prior, posterior)
    s, a, d, u, v = (sizes[name] for name in "SADUV")
    found = Filtered(*(noise.new_empty(steps, rows, n) for n in (s, d, s, s)))
    kept = Kept(*(noise.new_empty(steps, rows, n) for n in (s, s + a, d, u, 4 * d, v)))
    programs = grid(rows, max(u, d, v), noise.device)
    counter = torch.zeros(programs[1], dtype=torch.int32, device=noise.device)
    _forward[programs](
        from_embedding, actions, actions.stride(0), actions.stride(1), is_first, is_first.stride(0), is_first.stride(1),
        noise, *prior.inp, *prior.gru, posterior.hidden.weight, *posterior.out, posterior.min_std,
        *found, *kept, counter, steps, rows, **sizes, A_WIDTH=max(16, triton.next_power_of_2(a)),
        **options(precision),
    )  # fmt: skip
    return found, kept


def backward(
    kept: Kept, is_first: Tensor, noise: Tensor, prior: Any, posterior: Any, precision: str,
    outside: Sequence[Tensor | None], from_prior: Tensor | None, d: Tensor,
) -> None:  # fmt: skip
    """Gradients of every layer's sums, before its activation, from those of the outputs.

    Args:
        kept, is_first, noise, prior, posterior, precision: as forward gave and had them.
        outside: gradients of `Filtered`, each [L B, .] with contiguous rows, or None.
        from_prior: [L B, D], contiguous, what is added to that of deter, or None.
        d: [L B, `places(...).width`], which gets them, but for those of the prior.
    """
    (steps, rows, _), sizes, to = noise.shape, _sizes(prior, posterior), places(prior, posterior)
    programs = grid(rows, max(sizes[name] for name in "UDV"), noise.device)
    counter = torch.zeros(programs[1], dtype=torch.int32, device=noise.device)
    carry = noise.new_empty(rows, sizes["D"])
    given = (x for g in outside for x in (g, 0 if g is None else g.stride(0)))
    _backward[programs](
        *given, from_prior, is_first, is_first.stride(0), is_first.stride(1), noise, kept.slope, kept.before, kept.x,
        kept.gates, kept.u, prior.inp.weight, *prior.gru[:2], posterior.hidden.weight, posterior.out.weight,
        d, carry, counter, steps, rows, **sizes, WIDE=to.width, TO_X=to.x, TO_I=to.i, TO_H=to.h, TO_U=to.u, TO_O=to.out,
        **options(precision),
    )  # fmt: skip


def options(precision: str) -> dict[str, Any]:
    """How both kernels are compiled and launched."""
    found = {"PRECISION": precision, "BLOCK_K": INPUTS[precision], "num_warps": 4, "num_stages": STAGES}
    together = {} if imagine_heads.INTERPRETED else {"launch_cooperative_grid": True}
    return {**found, "maxnreg": REGISTERS, "enable_fp_fusion": True, **together}
