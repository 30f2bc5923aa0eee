"""Filtering sequences with the RSSM: contract, plain PyTorch reference, and the same with its gradient by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lsp_fast.ops import layers
from lsp_fast.ops.types import Normal, PosteriorWeights, PriorWeights, State


class Observed(NamedTuple):
    """A filtered sequence; time comes first."""

    states: State  # [L, B, ...], posterior samples
    posterior: Normal  # [L, B, S]
    prior: Normal  # [L, B, S]


def observe(
    embeddings: Tensor,
    actions: Tensor,
    is_first: Tensor,
    noise: Tensor,
    prior: PriorWeights,
    posterior: PosteriorWeights,
) -> Observed:
    """Filter sequences from a zero state, which is also where an episode begins (SPEC section 2).

        h_t = GRU([s_{t-1}, a_t], h_{t-1}),   s_t = mean + std * noise_t of q(. | h_t, embedding_t)

    Args:
        embeddings: [L, B, E].
        actions: [L, B, A], each the one that led to its observation; at a reset it is ignored.
        is_first: [L, B] bool, true where an observation begins an episode.
        noise: [L, B, S] standard normal.
        prior, posterior: weights.

    Returns:
        Observed, differentiable in embeddings, actions and every weight.
    """
    keep = (~is_first).to(embeddings.dtype)[..., None]  # [L, B, 1]
    actions = actions * keep
    state = _initial(embeddings, prior)
    states, posteriors = [], []
    for t in range(embeddings.shape[0]):
        state = State(state.stoch * keep[t], state.deter * keep[t])
        deter = layers.advance(state, actions[t], prior)
        q = layers.posterior(deter, embeddings[t], posterior)
        state = State(q.mean + q.std * noise[t], deter)
        states.append(state)
        posteriors.append(q)
    all_states = State(*(torch.stack(x) for x in zip(*states, strict=True)))
    all_posteriors = Normal(*(torch.stack(x) for x in zip(*posteriors, strict=True)))
    # The prior does not feed the recurrence, so that all steps go through it at once.
    return Observed(all_states, all_posteriors, layers.prior(all_states.deter, prior))


def observe_scan(
    embeddings: Tensor,
    actions: Tensor,
    is_first: Tensor,
    noise: Tensor,
    prior: PriorWeights,
    posterior: PosteriorWeights,
) -> Observed:
    """`observe` in fewer and larger kernels: a step does what the next one waits for, and nothing else.

    The products with actions and embeddings, and in the gradient those with the weights, are taken once for all steps.
    Sums are rounded in another order. It computes in the weights' type, also under autocast, and is differentiable
    once, not in the noise.
    """
    dtype = prior.inp.weight.dtype
    with torch.autocast(embeddings.device.type, enabled=False):
        embeddings, actions, noise = (x.to(dtype) for x in (embeddings, actions, noise))
        keep = (~is_first).to(dtype)[..., None]  # [L, B, 1]
        s, d = noise.shape[-1], prior.gru.weight_hh.shape[1]
        from_action = F.linear(actions * keep, prior.inp.weight[:, s:], prior.inp.bias)  # [L, B, hidden]
        from_embedding = F.linear(embeddings, posterior.hidden.weight[:, d:], posterior.hidden.bias)
        stoch, deter, raw = _Scan.apply(  # pyright: ignore[reportGeneralTypeIssues]
            from_action,
            from_embedding,
            keep,
            noise,
            prior.inp.weight[:, :s],
            *prior.gru,
            posterior.hidden.weight[:, :d],
            *posterior.out,
            posterior.min_std,
        )
        q = layers.softplus_normal(raw, posterior.min_std)
        return Observed(State(stoch, deter), q, layers.prior(deter, prior))


def _initial(embeddings: Tensor, prior: PriorWeights) -> State:
    """The zero state, [B, ...]."""
    like, batch = prior.inp.weight, embeddings.shape[1]
    return State(
        like.new_zeros(batch, prior.out.weight.shape[0] // 2), like.new_zeros(batch, prior.gru.weight_hh.shape[1])
    )


def _add_product(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """total + x @ weight, in total's place where nothing is compiled: one kernel. A compiler would have to follow what
    lies where, and takes the addition into the elementwise kernel that comes next."""
    return total + x @ weight if torch.compiler.is_compiling() else total.addmm_(x, weight)


class _Scan(torch.autograd.Function):
    """The recurrence of `observe`, for step t with k = 0 at a reset:

        x = elu(a_t + W_s k s),   h' = GRU(x, k h),   u = elu(e_t + V_h h'),   o = V_o u + b_o = [mean, raw std]

    Forward keeps x, u, o and the states. Backward computes the gates anew, for all steps at once, and with them what
    each step's gradients are multiplied by; what is left to do step by step is five products and as many elementwise
    kernels. Gradients of weights follow from the steps' gradients together.
    """

    @staticmethod
    def forward(
        ctx: Any,
        from_action: Tensor,  # [L, B, hidden]
        from_embedding: Tensor,  # [L, B, hidden]
        keep: Tensor,  # [L, B, 1]
        noise: Tensor,  # [L, B, S]
        w_s: Tensor,  # [hidden, S]
        w_i: Tensor,  # [3D, hidden]
        w_h: Tensor,  # [3D, D]
        b_i: Tensor,
        b_h: Tensor,
        v_h: Tensor,  # [hidden, D]
        v_o: Tensor,  # [2S, hidden]
        b_o: Tensor,
        min_std: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        length, batch = noise.shape[:2]
        stoch, deter = noise.new_zeros(batch, noise.shape[-1]), noise.new_zeros(batch, w_h.shape[1])
        # Copies: they are added to in place.
        into_x, into_u = from_action.clone(), from_embedding.clone()
        # raw's mean carries min_std * noise along through the loop, where it would be a kernel a step.
        shift = torch.cat([min_std * noise, torch.zeros_like(noise)], -1)
        into_raw = b_o + shift
        kept_stoch, kept_deter, xs, us, stochs, deters, raws = ([] for _ in range(7))
        for t in range(length):
            kept_stoch.append(stoch * keep[t])
            kept_deter.append(deter * keep[t])
            xs.append(F.elu(_add_product(into_x[t], kept_stoch[t], w_s.T)))
            deter = torch.gru_cell(xs[t], kept_deter[t], w_i, w_h, b_i, b_h)
            us.append(F.elu(_add_product(into_u[t], deter, v_h.T)))
            raw = _add_product(into_raw[t], us[t], v_o.T)
            shifted_mean, raw_std = raw.chunk(2, -1)
            stoch = torch.addcmul(shifted_mean, F.softplus(raw_std), noise[t])
            stochs.append(stoch)
            deters.append(deter)
            raws.append(raw)
        # What is returned is saved as the output that it is, or autograd would keep it in a circle.
        outputs = torch.stack(stochs), torch.stack(deters), torch.stack(raws) - shift
        saved = (torch.stack(x) for x in (kept_stoch, kept_deter, xs, us))
        ctx.save_for_backward(keep, noise, w_s, w_i, w_h, b_i, b_h, v_h, v_o, outputs[1], outputs[2], *saved)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_stoch: Tensor, grad_deter: Tensor, grad_raw: Tensor) -> tuple[Tensor | None, ...]:
        keep, noise, w_s, w_i, w_h, b_i, b_h, v_h, v_o, deter, raw, kept_stoch, kept_deter, x, u = ctx.saved_tensors
        length, batch, s = noise.shape

        # What gradients are multiplied by, for all steps at once.
        slope_x, slope_u = _elu_slope(x), _elu_slope(u)
        sampled = torch.stack([torch.ones_like(noise), noise * raw.chunk(2, -1)[1].sigmoid()], 2)  # [L, B, 2, S]
        g_i = F.linear(x, w_i, b_i).unflatten(-1, (3, -1))  # [L, B, 3, D]
        g_h = F.linear(kept_deter, w_h, b_h).unflatten(-1, (3, -1))
        r, z = (g_i[..., :2, :] + g_h[..., :2, :]).sigmoid().unbind(2)
        n = torch.tanh(g_i[..., 2, :] + r * g_h[..., 2, :])
        to_n = (1 - z) * (1 - n * n)
        to_r = to_n * g_h[..., 2, :] * r * (1 - r)
        to_z = (kept_deter - n) * z * (1 - z)
        # In the orders n r z, of the input's gates, and r z n, of the state's: one multiplication gives both.
        gates = torch.stack([to_n, to_r, to_z, to_n * r], 2)  # [L, B, 4, D]
        w_i_nrz = torch.cat([w_i[2 * len(w_i) // 3 :], w_i[: 2 * len(w_i) // 3]])
        keep_z, keep_x = keep * z, keep * slope_x
        # A reset passes nothing on to the step before.
        step_gates = torch.cat([gates[:, :, :3], gates[:, :, 1:] * keep[..., None]], 2)  # [L, B, 6, D]

        # Gradients from outside, to which each step adds.
        d_stoch, d_deter = grad_stoch.clone(), grad_deter.clone()
        grad_raw = grad_raw.unflatten(-1, (2, s))
        d_s, d_h = d_stoch[length - 1], d_deter[length - 1]
        outs, hiddens, deters, inputs = ([] for _ in range(4))
        for t in reversed(range(length)):
            outs.append(torch.addcmul(grad_raw[t], d_s[:, None], sampled[t]))  # [B, 2, S]
            hiddens.append(torch.mm(outs[-1].flatten(1), v_o) * slope_u[t])
            deters.append(_add_product(d_h, hiddens[-1], v_h))
            d_gates = deters[-1][:, None] * step_gates[t]  # [B, 6, D]
            inputs.append(torch.mm(d_gates[:, :3].flatten(1), w_i_nrz))
            if t > 0:
                d_s = _add_product(d_stoch[t - 1], inputs[-1] * keep_x[t], w_s)
                d_h = torch.addcmul(d_deter[t - 1], deters[-1], keep_z[t])
                d_h = _add_product(d_h, d_gates[:, 3:].flatten(1), w_h)

        # Gradients of weights, from all steps at once.
        d_o, d_u, d_h, d_x = (torch.stack(g[::-1]).flatten(0, 1) for g in (outs, hiddens, deters, inputs))
        d_o, d_x = d_o.flatten(1), d_x * slope_x.flatten(0, 1)
        d_gates = d_h[:, None] * gates.flatten(0, 1)  # [L B, 4, D]: n r z, n of the state's
        d_i = torch.cat([d_gates[:, 1:3], d_gates[:, :1]], 1).flatten(1)  # [L B, 3D]
        d_r = d_gates[:, 1:].flatten(1)
        kept_stoch, kept_deter, x, u, deter = (y.flatten(0, 1) for y in (kept_stoch, kept_deter, x, u, deter))
        return (
            d_x.unflatten(0, (length, batch)),
            d_u.unflatten(0, (length, batch)),
            None,
            None,
            d_x.T @ kept_stoch,
            d_i.T @ x,
            d_r.T @ kept_deter,
            d_i.sum(0),
            d_r.sum(0),
            d_u.T @ deter,
            d_o.T @ u,
            d_o.sum(0),
            None,
        )


def _elu_slope(y: Tensor) -> Tensor:
    """d elu(x) / dx, by its value y."""
    return torch.clamp(y, max=0) + 1
