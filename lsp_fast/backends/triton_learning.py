"""Learning's operations in Triton behind torch tensors: forward, and backward by hand.

They compute in float32, products as PyTorch is set to (fp32 or tf32). In another dtype, under autocast, and for
gradients to anything but the actor in `imagine` the reference computes, which is said once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lsp_fast import ops
from lsp_fast.backends.fallback import TRITON, fits_triton, refuse_twice, say_once
from lsp_fast.kernels import imagine as imagine_kernels
from lsp_fast.kernels import mlp as mlp_kernels
from lsp_fast.ops.imagine import check_imagine
from lsp_fast.ops.types import ActorWeights, ImagineNoise, MLPWeights, Normal, PriorWeights, Rollout, State


def mlp(x: Tensor, weights: MLPWeights) -> Tensor:
    """`lsp_fast.ops.mlp` in Triton: the same contract from float32, for anything else the reference itself."""
    layers = weights.hidden if weights.out is None else (*weights.hidden, weights.out)
    flat = [t for layer in layers for t in layer]
    if not layers or not fits_triton("mlp", x, *flat) or x.numel() == 0:
        return ops.mlp(x, weights)
    rows = x.reshape(-1, x.shape[-1])
    y = _Mlp.apply(rows, weights.out is not None, *flat)  # pyright: ignore[reportGeneralTypeIssues]
    return y.view(*x.shape[:-1], y.shape[-1])


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear_out: bool, *flat: Tensor) -> Tensor:
        x = x.contiguous()
        values = mlp_kernels.forward(x, list(zip(flat[::2], flat[1::2], strict=True)), linear_out)
        ctx.linear_out = linear_out
        ctx.save_for_backward(x, *(values[:-1] if linear_out else values), *flat[::2])
        return values[-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        refuse_twice("mlp")
        layers = len(ctx.needs_input_grad[2:]) // 2
        x, *rest = ctx.saved_tensors
        dx, flat = mlp_kernels.backward(
            gradients[0].contiguous(),
            x,
            rest[:-layers],
            rest[-layers:],
            ctx.linear_out,
            ctx.needs_input_grad[0],
            any(ctx.needs_input_grad[2:]),
        )
        return dx, None, *(flat or [None] * 2 * layers)


def imagine(
    start: State,
    prior: PriorWeights,
    actor: ActorWeights,
    skills: Tensor | None,
    skill_length: int,
    noise: ImagineNoise,
) -> Rollout:
    """`lsp_fast.ops.imagine` in Triton, with gradients to the actor alone: the same contract from float32, for anything
    else, or for gradients to anything else, the reference itself."""
    check_imagine(start, prior, actor, skills, skill_length, noise)
    fixed = [*start, *prior.inp, *prior.gru, *prior.hidden, *prior.out, noise.stoch]
    fixed += [x for x in (skills, noise.action) if x is not None]
    layers = actor.mlp.hidden if actor.mlp.out is None else (*actor.mlp.hidden, actor.mlp.out)
    flat = [t for layer in layers for t in layer]
    elsewhere = torch.is_grad_enabled() and any(x.requires_grad for x in fixed)
    if elsewhere:
        say_once("imagine", "where a gradient to more than the actor is wanted", TRITON)
    known = len(actor.mlp.hidden) > 0 and actor.mlp.out is not None and noise.stoch.numel() > 0
    if elsewhere or not fits_triton("imagine", *fixed, *flat) or not known:
        return ops.imagine(start, prior, actor, skills, skill_length, noise)
    seen = None if skills is None else actor.scaled(skills)
    given = start, prior, actor, seen, skill_length, noise
    stoch, deter, actions, mean, std = _Imagine.apply(given, *flat)  # pyright: ignore[reportGeneralTypeIssues]
    return Rollout(State(stoch, deter), actions, Normal(mean, std))


class _Imagine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: tuple, *flat: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        start, prior, actor, skills, skill_length, noise = given
        networks = imagine_kernels.Networks(prior, actor)
        kept = imagine_kernels.forward(
            networks, start.stoch, start.deter, skills, skill_length, noise.stoch, noise.action
        )
        ctx.networks, ctx.skill_length = networks, skill_length
        ctx.held, ctx.noise = skills, noise.action
        ctx.save_for_backward(*kept)  # the outputs among it, as autograd wants them
        return kept.stoch[1:], kept.deter[1:], kept.actions, kept.mean, kept.std

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        refuse_twice("imagine")
        kept = imagine_kernels.Kept(*ctx.saved_tensors)
        found = imagine_kernels.backward(ctx.networks, kept, gradients, ctx.held, ctx.skill_length, ctx.noise)
        return None, *found
