"""Backward predictor q(z | s_1 .. s_K, s_0), which tells a skill from what it led to (SPEC section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lsp_fast import processes
from lsp_fast.backends import REFERENCE, Backend
from lsp_fast.config import ModelConfig, PredictorConfig, SkillConfig
from lsp_fast.models.networks import MLP

RATE = 0.01
"""Of the running statistics of features, an update, once that is more than the share of a plain mean [O]."""
MIN_STD = 0.01
"""By which a feature is divided at least: one that never moves tells nothing, and does not shout when it does."""
MAX_STATES = 10  # states of a segment that the predictor sees (SPEC section 4)


def segment_states(length: int) -> list[int]:
    """Which of the states 1 .. K of a segment the predictor sees, counted from 0: at most 10, evenly spaced.

    >>> segment_states(30)
    [2, 5, 8, 11, 14, 17, 20, 23, 26, 29]
    """
    count = min(length, MAX_STATES)
    return [(i + 1) * length // count - 1 for i in range(count)]


class SkillPredictor(nn.Module):
    """A diagonal normal over skills with softly clamped standard deviation.

    With `config.normalise` it sees features by their running mean and deviation, which `follow` keeps up. They are
    buffers, so that they go into the checkpoint, and to whoever takes the predictor over.

    Args:
        feature_dim: F.
        skill: their width and length.
        config: sizes, inputs and input noise.
        model: bounds of the standard deviation, shared with the decoder.
        generator: draws the initial weights.
    """

    feature_mean: Tensor  # [F]
    feature_var: Tensor  # [F]
    updates: Tensor  # []

    def __init__(
        self,
        feature_dim: int,
        skill: SkillConfig,
        config: PredictorConfig,
        model: ModelConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.length = skill.length
        self.config, self.bounds = config, (model.decoder_min_std, model.decoder_max_std)
        self.steps = [skill.length - 1] if config.inputs == "ends" else segment_states(skill.length)
        states = 2 if config.inputs == "per_step" else len(self.steps) + 1
        self.width = states * feature_dim
        self.mlp = MLP(self.width, config.units, config.layers, 2 * skill.dim, generator)
        if config.normalise:
            self.register_buffer("feature_mean", torch.zeros(feature_dim))
            self.register_buffer("feature_var", torch.ones(feature_dim))
            self.register_buffer("updates", torch.zeros(()))

    def inputs(self, segment: Tensor, first: Tensor) -> Tensor:
        """What the network reads: (segment [K, N, F], first [N, F]) -> [N, I], or [k, N, 2F] for `per_step`.

        `first` is s_0, the state in which the skill began; the segment's states come after it.
        """
        if self.config.normalise:
            segment, first = self.normalised(segment), self.normalised(first)
        seen = self._seen(segment)  # k of [N, F]
        if self.config.inputs == "per_step":
            return torch.stack([torch.cat([state, first], -1) for state in seen])
        return torch.cat([*seen, first], -1)

    def normalised(self, feature: Tensor) -> Tensor:
        """Features [..., F] less their mean, over their standard deviation."""
        mean, std = self.scales()
        return (feature - mean) / std

    def scales(self) -> tuple[Tensor, Tensor]:
        """The features' running mean and standard deviation, [F] each, where `config.normalise` is on."""
        return self.feature_mean, self.feature_var.sqrt().clamp(min=MIN_STD)

    @torch.no_grad()
    def follow(self, feature: Tensor) -> None:
        """Take the features of one update's imagined states [T, N, F] into the running statistics, in place."""
        x = feature.flatten(0, -2).float()
        self.updates += 1
        rate = (1 / self.updates).clamp(min=RATE)  # a plain mean at first
        own = x.mean(0)
        # PyTorch's own variance takes ten times as long along the first dimension.
        mean, variance = processes.mean_and_variance(own, (x - own).square().mean(0))
        ahead = mean - self.feature_mean
        # The variance of a mixture: those of its parts, and how far apart these lie.
        self.feature_var += rate * (variance - self.feature_var + (1 - rate) * ahead**2)
        self.feature_mean += rate * ahead

    def _seen(self, segment: Tensor) -> Sequence[Tensor]:
        first, gap = self.steps[0], self.length // len(self.steps)
        if self.steps == list(range(first, self.length, gap)):
            # One gradient, where each state alone would have one of all.
            return segment[first : self.length : gap].unbind()
        # Indexing with a list would copy the list to the device at every call.
        return [segment[step] for step in self.steps]

    def log_prob(
        self, segment: Tensor, first: Tensor, skill: Tensor, noise: Tensor, backend: Backend = REFERENCE
    ) -> Tensor:
        """log q(skill | segment, first).

        Args:
            segment: [K, N, F], features of s_1 .. s_K.
            first: [N, F], features of s_0.
            skill: [N, Z].
            noise: standard normal, of the shape of `inputs`; scaled by the configured standard deviation.
            backend: what computes.

        Returns:
            [N], differentiable in every argument.
        """
        raw = self._raw(segment, first, noise, backend)
        log_prob = backend.log_prob(raw, skill.expand(*raw.shape[:-1], -1), *self.bounds)
        return log_prob.mean(0) if self.config.inputs == "per_step" else log_prob

    def mean(self, segment: Tensor, first: Tensor, noise: Tensor) -> Tensor:
        """The skill [N, Z] that a segment looks like; arguments are `log_prob`'s."""
        mean = self._raw(segment, first, noise, REFERENCE).chunk(2, -1)[0]
        return mean.mean(0) if self.config.inputs == "per_step" else mean

    def _raw(self, segment: Tensor, first: Tensor, noise: Tensor, backend: Backend) -> Tensor:
        """Mean and raw log std, [N, 2Z], or [k, N, 2Z] for `per_step`."""
        x = self.inputs(segment, first) + self.config.noise * noise
        return backend.mlp(x, self.mlp.weights())

    def noise_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of `log_prob`'s noise for N = batch."""
        shape = (batch, self.width)
        return (len(self.steps), *shape) if self.config.inputs == "per_step" else shape
