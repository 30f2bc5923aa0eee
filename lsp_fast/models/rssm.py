"""The recurrent state-space model (SPEC section 2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lsp_fast import ops
from lsp_fast.config import ModelConfig
from lsp_fast.models.networks import GRU, Linear
from lsp_fast.ops import layers
from lsp_fast.ops.observe import Observed
from lsp_fast.ops.types import PosteriorWeights, PriorWeights, State


class RSSM(nn.Module):
    """Deterministic GRU path h and stochastic diagonal normal s.

    Args:
        action_dim: A.
        embedding_dim: E, width of the encoder's output.
        config: sizes.
        generator: draws the initial weights.
    """

    def __init__(self, action_dim: int, embedding_dim: int, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        c = self.config = config
        self.prior_in = Linear(c.stoch + action_dim, c.hidden, generator)
        self.gru = GRU(c.hidden, c.deter, generator)
        self.prior_hidden = Linear(c.deter, c.hidden, generator)
        self.prior_out = Linear(c.hidden, 2 * c.stoch, generator)
        self.posterior_hidden = Linear(c.deter + embedding_dim, c.hidden, generator)
        self.posterior_out = Linear(c.hidden, 2 * c.stoch, generator)

    def prior_weights(self) -> PriorWeights:
        """The live parameters of the transition."""
        return PriorWeights(
            self.prior_in.weights(),
            self.gru.weights(),
            self.prior_hidden.weights(),
            self.prior_out.weights(),
            self.config.min_std,
        )

    def posterior_weights(self) -> PosteriorWeights:
        """The live parameters of the filter."""
        return PosteriorWeights(self.posterior_hidden.weights(), self.posterior_out.weights(), self.config.min_std)

    def initial(self, batch: int) -> State:
        """The zero state, [batch, ...]."""
        like = self.prior_in.weight
        return State(like.new_zeros(batch, self.config.stoch), like.new_zeros(batch, self.config.deter))

    def filter(self, state: State, action: Tensor, embedding: Tensor, noise: Tensor) -> State:
        """One posterior step: ([N, ...], action [N, A] that led here, [N, E], noise [N, S]) -> [N, ...]."""
        deter = layers.advance(state, action, self.prior_weights())
        q = layers.posterior(deter, embedding, self.posterior_weights())
        return State(q.mean + q.std * noise, deter)

    def observe(
        self,
        embeddings: Tensor,
        actions: Tensor,
        is_first: Tensor,
        noise: Tensor,
        observe: Callable[..., Observed] = ops.observe,
    ) -> Observed:
        """Filter sequences from a zero state, which is also where an episode begins.

        Args:
            embeddings: [L, B, E].
            actions: [L, B, A], each the one that led to its observation; at a reset it is ignored.
            is_first: [L, B] bool, true where an observation begins an episode.
            noise: [L, B, S] standard normal.
            observe: a backend's, or `ops.observe_scan`.
        """
        return observe(embeddings, actions, is_first, noise, self.prior_weights(), self.posterior_weights())
