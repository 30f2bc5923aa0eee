"""`lsp_fast.ops.observe` in Triton: the recurrence in one kernel each way, everything else in products of all steps.

Forward takes 7 launches and the gradient 16, however long a sequence is. For the gradient forward keeps of every state,
beside what it returns, 4 S + 5 D + A + U + V + W numbers in fp32, where the hidden layers of transition, posterior and
prior have U, V and W: 17 MB of 50 sequences of 50 steps at the paper's sizes. The gradient takes 19 MB more for its
time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lsp_fast import ops
from lsp_fast.backends import fallback
from lsp_fast.kernels import normal
from lsp_fast.kernels import observe as kernels
from lsp_fast.ops.observe import Observed
from lsp_fast.ops.types import Dense, GRUWeights, Normal, PosteriorWeights, PriorWeights, State


def observe(
    embeddings: Tensor,
    actions: Tensor,
    is_first: Tensor,
    noise: Tensor,
    prior: PriorWeights,
    posterior: PosteriorWeights,
) -> Observed:
    """`lsp_fast.ops.observe` in Triton: the same contract in float32; for anything else the reference itself.

    It is differentiable once, in embeddings, actions and weights; not in the noise. Products are PyTorch's: with
    torch.set_float32_matmul_precision("high") they multiply tf32.

    Raises:
        ValueError: shapes that do not fit.
    """
    flat = [*prior.inp, *prior.gru, *prior.hidden, *prior.out, *posterior.hidden, *posterior.out]
    wide = max(noise.shape[-1], actions.shape[-1]) > kernels.WIDEST
    if wide:
        fallback.say_once("observe", f"with more than {kernels.WIDEST} latents or actions", fallback.TRITON)
    if wide or not fallback.fits_triton("observe", noise, actions, embeddings, *flat) or noise.numel() == 0:
        return ops.observe(embeddings, actions, is_first, noise, prior, posterior)
    _check(embeddings, actions, is_first, noise, prior, posterior)
    bounds = prior.min_std, posterior.min_std
    stoch, deter, *normals = _Observe.apply(embeddings, actions, is_first, noise, bounds, *flat)  # pyright: ignore[reportGeneralTypeIssues]
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
        *flat: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.bounds, ctx.precision = bounds, _precision()
        flat = tuple(x.contiguous() for x in flat)
        prior, posterior = _tuples(flat, bounds)
        length, batch, _ = noise.shape
        noise, actions = noise.contiguous(), _by_rows(actions)
        d = prior.gru.weight_hh.shape[1]
        seen, hidden = embeddings.reshape(length * batch, -1), posterior.hidden
        from_embedding = torch.addmm(hidden.bias, seen, hidden.weight[:, d:].T)
        found, kept = kernels.forward(from_embedding, actions, is_first, noise, prior, posterior, ctx.precision)
        deter = found.deter.flatten(0, 1)
        v = F.elu(torch.addmm(prior.hidden.bias, deter, prior.hidden.weight.T), inplace=True)
        raw = torch.addmm(prior.out.bias, v, prior.out.weight.T)
        mean, std = normal.forward(raw.view(length, batch, -1), prior.min_std)
        # What is returned is saved as the output that it is, or autograd would keep it in a circle.
        ctx.save_for_backward(seen, is_first, noise, found.deter, v, raw, *kept, *flat)
        return *found, mean, std

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        fallback.refuse_twice("observe")
        seen, is_first, noise, deter, v, raw = ctx.saved_tensors[:6]
        kept = kernels.Kept(*ctx.saved_tensors[6:12])
        prior, posterior = _tuples(ctx.saved_tensors[12:], ctx.bounds)
        (length, batch, s), units, to = noise.shape, deter.shape[-1], kernels.places(prior, posterior)
        inputs, before, x, u, deter = (y.flatten(0, 1) for y in (kept.inputs, kept.before, kept.x, kept.u, deter))
        d = noise.new_empty(length * batch, to.width)

        def part(begin: int, size: int) -> Tensor:
            return d[:, begin : begin + size]

        *outside, d_mean, d_std = (None if g is None else _by_rows(g.flatten(0, 1)) for g in gradients)
        d_v, d_raw, from_prior = part(to.prior, v.shape[1]), part(to.prior_out, 2 * s), None
        through_prior = d_mean is not None or d_std is not None
        if through_prior:
            normal.backward(raw, d_mean, d_std, d_raw)
            into_v = d_raw @ prior.out.weight
            torch.ops.aten.elu_backward.grad_input(into_v, 1.0, 1.0, 1.0, True, v, grad_input=d_v)
            from_prior = d_v @ prior.hidden.weight
        kernels.backward(kept, is_first, noise, prior, posterior, ctx.precision, outside, from_prior, d)

        d_x, d_u, d_out = part(to.x, x.shape[1]), part(to.u, u.shape[1]), part(to.out, 2 * s)
        d_embeddings = d_actions = None
        if ctx.needs_input_grad[0]:
            d_embeddings = (d_u @ posterior.hidden.weight[:, units:]).view(length, batch, -1)
        if ctx.needs_input_grad[1]:
            d_actions = (d_x @ prior.inp.weight[:, s:]).view(length, batch, -1) * ~is_first[..., None]
        if not any(ctx.needs_input_grad[5:]):
            return d_embeddings, d_actions, *[None] * (len(ctx.needs_input_grad) - 2)
        d_i, d_h = part(to.i, 3 * units), part(to.h, 3 * units)
        d_hidden = torch.empty_like(posterior.hidden.weight)
        torch.mm(d_u.T, deter, out=d_hidden[:, :units])
        torch.mm(d_u.T, seen, out=d_hidden[:, units:])
        # Of all biases at once; what was not given is not looked at.
        biases = d.sum(0)

        def bias(begin: int, like: Tensor) -> Tensor:
            return biases[begin : begin + len(like)]

        of_prior: list[Tensor | None] = [None] * 4
        if through_prior:
            of_prior = [
                d_v.T @ deter,
                bias(to.prior, prior.hidden.bias),
                d_raw.T @ v,
                bias(to.prior_out, prior.out.bias),
            ]
        return (
            d_embeddings,
            d_actions,
            None,
            None,
            None,
            d_x.T @ inputs,
            bias(to.x, prior.inp.bias),
            d_i.T @ x,
            d_h[batch:].T @ before[batch:],  # the first step's state is zero
            bias(to.i, prior.gru.bias_ih),
            bias(to.h, prior.gru.bias_hh),
            *of_prior,
            d_hidden,
            bias(to.u, posterior.hidden.bias),
            d_out.T @ u,
            bias(to.out, posterior.out.bias),
        )


def _tuples(flat: tuple[Tensor, ...], bounds: tuple[float, float]) -> tuple[PriorWeights, PosteriorWeights]:
    inp, gru, hidden, out = Dense(*flat[:2]), GRUWeights(*flat[2:6]), Dense(*flat[6:8]), Dense(*flat[8:10])
    return PriorWeights(inp, gru, hidden, out, bounds[0]), PosteriorWeights(
        Dense(*flat[10:12]), Dense(*flat[12:]), bounds[1]
    )


def _by_rows(x: Tensor) -> Tensor:
    """The same numbers, each row contiguous."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _precision() -> str:
    """What PyTorch's own products multiply."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _check(
    embeddings: Tensor,
    actions: Tensor,
    is_first: Tensor,
    noise: Tensor,
    prior: PriorWeights,
    posterior: PosteriorWeights,
) -> None:
    (length, batch), s, d = noise.shape[:2], len(prior.out.weight) // 2, prior.gru.weight_hh.shape[1]
    u, v, hidden = len(prior.inp.weight), len(posterior.hidden.weight), len(prior.hidden.weight)
    a, e = prior.inp.weight.shape[1] - s, posterior.hidden.weight.shape[1] - d
    for name, x, shape in (
        ("embeddings", embeddings, (length, batch, e)),
        ("actions", actions, (length, batch, a)),
        ("is_first", is_first, (length, batch)),
        ("noise", noise, (length, batch, s)),
        ("prior.gru.weight_ih", prior.gru.weight_ih, (3 * d, u)),
        ("prior.gru.weight_hh", prior.gru.weight_hh, (3 * d, d)),
        ("prior.hidden.weight", prior.hidden.weight, (hidden, d)),
        ("prior.out.weight", prior.out.weight, (2 * s, hidden)),
        ("posterior.out.weight", posterior.out.weight, (2 * s, v)),
        ("prior.inp.bias", prior.inp.bias, (u,)),
        ("prior.gru.bias_ih", prior.gru.bias_ih, (3 * d,)),
        ("prior.gru.bias_hh", prior.gru.bias_hh, (3 * d,)),
        ("prior.hidden.bias", prior.hidden.bias, (hidden,)),
        ("prior.out.bias", prior.out.bias, (2 * s,)),
        ("posterior.hidden.bias", posterior.hidden.bias, (v,)),
        ("posterior.out.bias", posterior.out.bias, (2 * s,)),
    ):
        if x.shape != shape:
            raise ValueError(f"{name} must be {list(shape)}, not {list(x.shape)}")
