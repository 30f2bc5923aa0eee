"""The world model's loss (SPEC section 2)."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from lsp_fast.backends import REFERENCE, Backend
from lsp_fast.models.world_model import SequenceBatch, WorldModel
from lsp_fast.ops import densities, layers
from lsp_fast.ops.types import Normal, State, features


class WorldModelLoss(NamedTuple):
    """The loss to minimise, the posterior states it was taken at, and its parts (0-d tensors, detached)."""

    loss: Tensor
    states: State  # [L, B, ...]
    metrics: dict[str, Tensor]


def balanced_kl(posterior: Normal, prior: Normal, balance: float, backend: Backend = REFERENCE) -> Tensor:
    """a KL(sg(q) || p) + (1 - a) KL(q || sg(p)), summed over dimensions: [..., S] -> [...] (SPEC section 8).

    Args:
        posterior, prior: q and p.
        balance: a, the share of the gradient that the prior gets; 0 is the KL itself, all of it to both.
        backend: what computes.
    """
    if not balance:
        return backend.kl_divergence(posterior, prior)
    q, p = (Normal(x.mean.detach(), x.std.detach()) for x in (posterior, prior))
    return balance * backend.kl_divergence(q, prior) + (1 - balance) * backend.kl_divergence(posterior, p)


def world_model_loss(
    model: WorldModel, batch: SequenceBatch, noise: Tensor, backend: Backend = REFERENCE
) -> WorldModelLoss:
    """max(mean KL, free nats) - mean log p(o) - reward_scale mean log p(r), of sums over dimensions and means over
    batch and time.

    Args:
        batch: [B, L, ...].
        noise: [L, B, S] standard normal.
        backend: what computes.
    """
    c = model.config
    target = model.normalize(batch.observation).transpose(0, 1)  # [L, B, O]
    actions, is_first = batch.action.transpose(0, 1), batch.is_first.transpose(0, 1)
    if backend.world_model is not None and (weights := model.weights()) is not None:
        bounds = c.decoder_min_std, c.decoder_max_std
        rules = c.free_nats, bounds, c.kl_balance, c.reward_scale
        whole = backend.world_model(target, actions, is_first, batch.reward.T, noise, weights, *rules)
        if whole is not None:
            loss, states, *parts = whole
            names = "kl", "observation_nll", "reward_nll", "reward_error"
            return WorldModelLoss(loss, states, dict(zip(names, parts, strict=True)) | {"loss": loss.detach()})
    embeddings = model.encode(target, backend)
    observed = model.rssm.observe(embeddings, actions, is_first, noise, backend.observe)
    feature = features(observed.states)  # [L, B, F]

    observation_nll = model.observation_nll(feature, target, backend).mean()
    reward = layers.scalar_head(feature, model.reward.weights(), backend.mlp)
    reward_nll = -densities.normal_log_prob(batch.reward.T, reward).mean()
    kl = balanced_kl(observed.posterior, observed.prior, c.kl_balance, backend).mean()
    # Free nats apply after averaging, without a gradient below them [D].
    # A factor of 1 would be two kernels more on a GPU, for nothing.
    weighted = reward_nll if c.reward_scale == 1 else c.reward_scale * reward_nll
    loss = kl.clamp(min=c.free_nats) + observation_nll + weighted
    metrics = {
        "observation_nll": observation_nll,
        "reward_nll": reward_nll,
        "reward_error": (reward - batch.reward.T).abs().mean(),
        "kl": kl,
    }
    if model.discount is not None:
        # Log-likelihood of the soft target gamma * (1 - terminal) under a Bernoulli [D].
        logit = layers.scalar_head(feature, model.discount.weights(), backend.mlp)
        soft = model.gamma * (1 - batch.terminal.T)
        metrics["discount_nll"] = F.binary_cross_entropy_with_logits(logit, soft)
        loss = loss + c.discount_scale * metrics["discount_nll"]
    metrics["loss"] = loss
    return WorldModelLoss(loss, observed.states, {k: v.detach() for k, v in metrics.items()})
