"""Actor and value heads (SPEC section 3)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lsp_fast import processes
from lsp_fast.config import ActorConfig, ValueConfig
from lsp_fast.models.networks import MLP
from lsp_fast.ops.types import ActorWeights, MLPWeights


class Actor(nn.Module):
    """Low-level policy q(a | features, skill), a tanh-normal; `skill_scale` is what it multiplies the skill by."""

    def __init__(
        self,
        feature_dim: int,
        skill_dim: int,
        action_dim: int,
        config: ActorConfig,
        generator: torch.Generator,
        skill_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.config, self.skill_scale = config, skill_scale
        self.mlp = MLP(feature_dim + skill_dim, config.units, config.layers, 2 * action_dim, generator)

    def weights(self) -> ActorWeights:
        """The live parameters."""
        c = self.config
        return ActorWeights(self.mlp.weights(), c.mean_scale, c.init_std, c.min_std, self.skill_scale)


class Value(nn.Module):
    """State value v(features), or v(features, skill), the mean of a unit normal; perhaps with a copy that follows it.

    Args:
        skill_dim: Z where it sees the skill, else 0.
        remembers: keep the largest reward, where targets are clipped; one head does for all.
    """

    def __init__(
        self,
        feature_dim: int,
        config: ValueConfig,
        generator: torch.Generator,
        skill_dim: int = 0,
        *,
        remembers: bool = True,
    ) -> None:
        super().__init__()
        self.mlp = MLP(feature_dim + skill_dim, config.units, config.layers, 1, generator)
        self.rate = config.slow
        self.slow = copy.deepcopy(self.mlp).requires_grad_(False) if config.slow else None
        self.largest_reward: Tensor | None
        self.register_buffer("largest_reward", torch.zeros(()) if config.clip_targets and remembers else None)

    def weights(self) -> MLPWeights:
        """The live parameters."""
        return self.mlp.weights()

    def slow_weights(self) -> MLPWeights | None:
        """The slow copy's, where there is one: what returns are bootstrapped by (SPEC section 8)."""
        return None if self.slow is None else self.slow.weights()

    @torch.no_grad()
    def follow(self) -> None:
        """Move the slow copy its rate of the way to what has been learned; it keeps its storage."""
        if self.slow is not None:
            for slow, learned in zip(self.slow.parameters(), self.mlp.parameters(), strict=True):
                slow.lerp_(learned, self.rate)

    @torch.no_grad()
    def remember(self, reward: Tensor | None) -> None:
        """Keep the largest reward, 0-d, of all processes, where targets are clipped; in place."""
        if self.largest_reward is not None:
            assert reward is not None
            self.largest_reward.copy_(processes.maximum(reward))
