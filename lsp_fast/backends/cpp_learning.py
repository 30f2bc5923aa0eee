"""Learning's operations in C++ behind torch tensors: forward, and backward by hand.

They compute in float32 on the CPU, on torch.get_num_threads() threads; results and gradients have the same bits with
any number of them. In another dtype, on another device, or under autocast the reference computes.

Forward copies inputs and weights. So a gradient is the one at what forward saw, even where they were changed in place
since; the reference would refuse.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lsp_fast import ops
from lsp_fast.backends.cpp import _arrays, _threads, load
from lsp_fast.backends.fallback import CPP, fits_cpp, refuse_twice, say_once
from lsp_fast.ops.imagine import check_imagine
from lsp_fast.ops.observe import Observed
from lsp_fast.ops.types import (
    ActorWeights,
    Dense,
    ImagineNoise,
    MLPWeights,
    Normal,
    PosteriorWeights,
    PriorWeights,
    Rollout,
    State,
)


def mlp(x: Tensor, weights: MLPWeights, isa: str = "auto") -> Tensor:
    """`lsp_fast.ops.mlp` in C++: the same contract from float32 on the CPU, for anything else the reference itself.

    Args:
        isa: one of `cpp.instruction_sets()`; auto takes the first.
    """
    layers = weights.hidden if weights.out is None else (*weights.hidden, weights.out)
    flat = [t for layer in layers for t in layer]
    if not fits_cpp("mlp", x, *flat) or not layers or x.numel() == 0:
        return ops.mlp(x, weights)
    rows = x.reshape(-1, x.shape[-1])
    y = _Mlp.apply(rows, weights.out is not None, isa, torch.is_grad_enabled(), *flat)  # pyright: ignore[reportGeneralTypeIssues]
    return y.view(*x.shape[:-1], y.shape[-1])


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear_out: bool, isa: str, graded: bool, *flat: Tensor) -> Tensor:
        wanted = graded and any(ctx.needs_input_grad)
        y, ctx.kept = load().mlp_forward(_array(x), _pairs(flat), linear_out, wanted, _threads(), isa)
        return torch.from_numpy(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        refuse_twice("mlp")
        want_weights = any(ctx.needs_input_grad[4:])
        dx, arrays = load().mlp_backward(
            ctx.kept, _array(gradients[0]), ctx.needs_input_grad[0], want_weights, _threads()
        )
        flat = map(torch.from_numpy, arrays) if want_weights else [None] * len(ctx.needs_input_grad[4:])
        return None if dx is None else torch.from_numpy(dx), None, None, None, *flat


def observe(
    embeddings: Tensor,
    actions: Tensor,
    is_first: Tensor,
    noise: Tensor,
    prior: PriorWeights,
    posterior: PosteriorWeights,
    isa: str = "auto",
) -> Observed:
    """`lsp_fast.ops.observe` in C++: the same contract from float32 on the CPU, for anything else the reference itself.

    It is differentiable once, in embeddings, actions and weights; not in the noise.

    Args:
        isa: one of `cpp.instruction_sets()`; auto takes the first.
    """
    flat = [*prior.inp, *prior.gru, *prior.hidden, *prior.out, *posterior.hidden, *posterior.out]
    if not fits_cpp("observe", embeddings, actions, noise, *flat) or noise.numel() == 0:
        return ops.observe(embeddings, actions, is_first, noise, prior, posterior)
    bounds = prior.min_std, posterior.min_std
    stoch, deter, *normals = _Observe.apply(  # pyright: ignore[reportGeneralTypeIssues]
        embeddings, actions, is_first, noise, bounds, isa, torch.is_grad_enabled(), *flat
    )
    return Observed(State(stoch, deter), Normal(*normals[:2]), Normal(*normals[2:]))


class _Observe(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        actions: Tensor,
        is_first: Tensor,
        noise: Tensor,
        bounds: tuple[float, float],
        isa: str,
        graded: bool,
        *flat: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        a = [_array(x) for x in flat]
        prior = (tuple(a[:2]), tuple(a[2:6]), tuple(a[6:8]), tuple(a[8:10]), bounds[0])
        posterior = (tuple(a[10:12]), tuple(a[12:]), bounds[1])
        arrays = (_array(x) for x in (embeddings, actions, is_first, noise))
        *outputs, ctx.kept = load().observe_forward(
            *arrays, prior, posterior, graded and any(ctx.needs_input_grad), _threads(), isa
        )
        return tuple(map(torch.from_numpy, outputs))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        refuse_twice("observe")
        want_embeddings, want_actions, *_ = ctx.needs_input_grad
        want_weights = any(ctx.needs_input_grad[7:])
        given = (None if g is None else _array(g) for g in gradients)
        *inputs, arrays = load().observe_backward(
            ctx.kept, *given, want_embeddings, want_actions, want_weights, _threads()
        )
        d_embeddings, d_actions = (None if x is None else torch.from_numpy(x) for x in inputs)
        if not want_weights:
            return d_embeddings, d_actions, *[None] * (len(ctx.needs_input_grad) - 2)
        inp, inp_b, w_i, b_i, w_h, b_h, *rest = map(torch.from_numpy, arrays)
        return d_embeddings, d_actions, None, None, None, None, None, inp, inp_b, w_i, w_h, b_i, b_h, *rest


def imagine(
    start: State,
    prior: PriorWeights,
    actor: ActorWeights,
    skills: Tensor | None,
    skill_length: int,
    noise: ImagineNoise,
    isa: str = "auto",
) -> Rollout:
    """`lsp_fast.ops.imagine` in C++, with gradients to the actor alone: the same contract from float32 on the CPU, for
    anything else, or for gradients to anything else, the reference itself.

    Args:
        isa: one of `cpp.instruction_sets()`; auto takes the first.
    """
    check_imagine(start, prior, actor, skills, skill_length, noise)
    fixed = [*start, *prior.inp, *prior.gru, *prior.hidden, *prior.out, noise.stoch]
    fixed += [x for x in (skills, noise.action) if x is not None]
    layers = actor.mlp.hidden if actor.mlp.out is None else (*actor.mlp.hidden, actor.mlp.out)
    flat = [t for layer in layers for t in layer]
    elsewhere = torch.is_grad_enabled() and any(x.requires_grad for x in fixed)
    if elsewhere:
        say_once("imagine", "where a gradient to more than the actor is wanted", CPP)
    if elsewhere or actor.mlp.out is None or not fits_cpp("imagine", *fixed, *flat) or noise.stoch.numel() == 0:
        return ops.imagine(start, prior, actor, skills, skill_length, noise)
    given = start, prior, actor, skills, skill_length, noise, isa, torch.is_grad_enabled()
    stoch, deter, actions, mean, std = _Imagine.apply(given, *flat)  # pyright: ignore[reportGeneralTypeIssues]
    return Rollout(State(stoch, deter), actions, Normal(mean, std))


class _Imagine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: tuple, *flat: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        start, prior, actor, skills, skill_length, noise, isa, graded = given
        layers = _pairs(flat)
        *outputs, ctx.kept = load().imagine_forward(
            *map(_array, start),
            _arrays(prior),
            ((layers[:-1], layers[-1]), *actor[1:4]),
            None if skills is None else _array(actor.scaled(skills)),
            skill_length,
            _array(noise.stoch),
            None if noise.action is None else _array(noise.action),
            graded and any(ctx.needs_input_grad),
            _threads(),
            isa,
        )
        return tuple(map(torch.from_numpy, outputs))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        refuse_twice("imagine")
        arrays = load().imagine_backward(ctx.kept, *(None if g is None else _array(g) for g in gradients), _threads())
        return None, *map(torch.from_numpy, arrays)


def _array(x: Tensor):
    return x.detach().contiguous().numpy()


def _pairs(flat: tuple[Tensor, ...]) -> tuple:
    """Weights and biases in turns as ((weight, bias), ...)."""
    return tuple(tuple(map(_array, Dense(*flat[i : i + 2]))) for i in range(0, len(flat), 2))
