"""World model: encoder of features, frames or both, RSSM, decoder, reward and discount heads (SPEC section 2)."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lsp_fast.backends import REFERENCE, Backend
from lsp_fast.config import ModelConfig
from lsp_fast.errors import ConfigError
from lsp_fast.models import conv
from lsp_fast.models.conv import ConvDecoder, ConvEncoder
from lsp_fast.models.networks import MLP, NormedMLP
from lsp_fast.models.rssm import RSSM
from lsp_fast.observed import Observed, Plain
from lsp_fast.ops import densities, layers
from lsp_fast.ops.imagine import imagine_actions
from lsp_fast.ops.types import MLPWeights, State, WorldModelWeights, features, map_state


class SequenceBatch(NamedTuple):
    """Replayed sequences as tensors (SPEC section 1); batch comes first, as the replay gives them."""

    observation: Tensor  # [B, L, O] float32, or frames [B, L, 64, 64, 3] uint8, or both [B, L, 12288 + 4 V] uint8
    action: Tensor  # [B, L, A] float32, the one that led to the observation
    reward: Tensor  # [B, L] float32
    terminal: Tensor  # [B, L] float32, 1 where the episode truly ended
    is_first: Tensor  # [B, L] bool


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|), elementwise: the identity near 0, and 4.2 at 66 (SPEC section 8)."""
    return x.sign() * x.abs().log1p()


def discounts(feature: Tensor, gamma: float, head: MLPWeights | None, backend: Backend = REFERENCE) -> Tensor:
    """What the future after each state counts, [..., F] -> [...]; the head is trained on gamma * (1 - terminal) [D]."""
    if head is None:
        return torch.full_like(feature[..., 0], gamma)
    return torch.sigmoid(layers.scalar_head(feature, head, backend.mlp))


@functools.cache
def _say_once(backend: str) -> None:
    warnings.warn(
        f"model.norm: PyTorch computes encoder and decoder, since backend {backend!r} knows no LayerNorm", stacklevel=4
    )


class WorldModel(nn.Module):
    """Encoder, RSSM, decoder and heads.

    Of both, frame and numbers have an encoder and a decoder each. Their embeddings are one beside the other, and their
    log-likelihoods are summed. Normalised, both are one row [12288 + V].

    Args:
        observation: O; or the shape of frames; or both, as of `Observed.plain`.
        action_dim: A.
        config: sizes and loss settings.
        gamma: the discount that the discount head scales.
        generator: draws the initial weights.
        discount_head: predict terminations.
    """

    observation_mean: Tensor
    observation_std: Tensor

    def __init__(
        self,
        observation: Plain | Sequence[int],
        action_dim: int,
        config: ModelConfig,
        gamma: float,
        generator: torch.Generator,
        *,
        discount_head: bool = False,
    ) -> None:
        super().__init__()
        c = self.config = config
        o = self.observed = Observed.of(observation)
        self.pixels = o.frame is not None
        if o.frame is not None and o.frame != conv.SHAPE:
            raise ConfigError(f"frames must be of shape {conv.SHAPE}, not {o.frame}")
        self.gamma = gamma
        feature_dim = c.stoch + c.deter
        mlp = NormedMLP if c.norm else MLP

        def encoder() -> MLP:
            return mlp(o.vector, c.encoder_units, c.encoder_layers, 0, generator)

        def decoder() -> MLP:
            return mlp(feature_dim, c.decoder_units, c.decoder_layers, 2 * o.vector, generator)

        self.encoder = ConvEncoder(generator) if self.pixels else encoder()
        self.vector_encoder = encoder() if o.both else None
        widths = conv.EMBEDDING * self.pixels + c.encoder_units * bool(o.vector)
        self.rssm = RSSM(action_dim, widths, c, generator)
        self.decoder = ConvDecoder(feature_dim, generator) if self.pixels else decoder()
        self.vector_decoder = decoder() if o.both else None
        self.reward = MLP(feature_dim, c.reward_units, c.reward_layers, 1, generator)
        self.discount = MLP(feature_dim, c.reward_units, c.reward_layers, 1, generator) if discount_head else None
        # Ones and zeros change nothing, so that there is one path with normalisation and without.
        self.register_buffer("observation_mean", torch.zeros(o.vector or 1))
        self.register_buffer("observation_std", torch.ones(o.vector or 1))

    def fit_normalizer(self, mean: Tensor, std: Tensor) -> None:
        """Standardise observations by these statistics [O] from now on (`normalize_observations`): [O], [O]."""
        self.observation_mean.copy_(mean)
        # A coordinate that hardly moved in the prefill may move later: 1e-2 bounds how much it is blown up.
        self.observation_std.copy_(std.clamp(min=1e-2))

    def normalize(self, observation: Tensor) -> Tensor:
        """[..., O] -> [..., O]; the identity unless a normaliser was fitted. Frames go from 0 .. 255 to [-0.5, 0.5].
        Both, uint8 [..., 12288 + 4 V], become [..., 12288 + V]."""
        o = self.observed
        if o.both:
            numbers = observation[..., o.pixels :].view(torch.float32)
            return torch.cat([self._scaled(observation[..., : o.pixels]), self._standard(numbers)], -1)
        return self._scaled(observation) if self.pixels else self._standard(observation)

    def truth(self, observation: Tensor) -> Tensor:
        """The frames that were observed, in [0, 1]: [..., 64, 64, 3]."""
        o = self.observed
        if o.both:
            observation = observation[..., : o.pixels].unflatten(-1, conv.SHAPE)
        return observation.float() / 255

    def _scaled(self, frames: Tensor) -> Tensor:
        return frames.to(self.observation_mean.dtype) / 255 - 0.5

    def _standard(self, numbers: Tensor) -> Tensor:
        standard = (numbers - self.observation_mean) / self.observation_std
        return symlog(standard) if self.config.normaliser == "symlog" else standard

    def _parts(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Frame [..., 64, 64, 3] and numbers [..., V] of both, normalised."""
        pixels = self.observed.pixels
        return target[..., :pixels].unflatten(-1, conv.SHAPE), target[..., pixels:]

    def embed(self, observation: Tensor) -> Tensor:
        """[..., O] -> [..., E]"""
        return self.encode(self.normalize(observation))

    def encode(self, target: Tensor, backend: Backend = REFERENCE) -> Tensor:
        """Normalised observations [..., O] -> [..., E]."""
        if not isinstance(self.encoder, ConvEncoder):
            return self._layers(self.encoder, target, backend)
        if self.vector_encoder is None:
            return self.encoder(target.flatten(0, -4)).unflatten(0, target.shape[:-3])
        frame, numbers = self._parts(target)
        seen = self.encoder(frame.flatten(0, -4)).unflatten(0, frame.shape[:-3])
        return torch.cat([seen, self._layers(self.vector_encoder, numbers, backend)], -1)

    def observation_nll(self, feature: Tensor, target: Tensor, backend: Backend = REFERENCE) -> Tensor:
        """-log p(observation): ([..., F], normalised [..., O]) -> [...]; of frames with unit deviation."""
        if not isinstance(self.decoder, ConvDecoder):
            return self._numbers_nll(self.decoder, feature, target, backend)
        if self.vector_decoder is None:
            return -densities.normal_log_prob(target, self.frames(feature)).sum((-3, -2, -1))
        frame, numbers = self._parts(target)
        seen = -densities.normal_log_prob(frame, self.frames(feature)).sum((-3, -2, -1))
        return seen + self._numbers_nll(self.vector_decoder, feature, numbers, backend)

    def _numbers_nll(self, decoder: MLP, feature: Tensor, target: Tensor, backend: Backend) -> Tensor:
        raw, c = self._layers(decoder, feature, backend), self.config
        return -backend.log_prob(raw, target, c.decoder_min_std, c.decoder_max_std)

    def _layers(self, mlp: MLP, x: Tensor, backend: Backend) -> Tensor:
        if not isinstance(mlp, NormedMLP):
            return backend.mlp(x, mlp.weights())
        if backend.name != "reference":
            _say_once(backend.name)
        return mlp(x)

    def frames(self, feature: Tensor) -> Tensor:
        """Means of frames in [-0.5, 0.5]: [..., F] -> [..., 64, 64, 3]."""
        assert isinstance(self.decoder, ConvDecoder)
        return self.decoder(feature.flatten(0, -2)).unflatten(0, feature.shape[:-1])

    @torch.no_grad()
    def open_loop(self, batch: SequenceBatch, noise: Tensor, seen: int) -> Tensor:
        """What the model draws of sequences of frames of which it has seen the first `seen`, in [-0.5, 0.5].

        Args:
            batch: [B, L, ...].
            noise: [L, B, S] standard normal.
            seen: reconstructions of posterior states, then predictions that know the actions alone.

        Returns:
            [L, B, 64, 64, 3]
        """
        target = self.normalize(batch.observation).transpose(0, 1)
        actions, is_first = batch.action.transpose(0, 1), batch.is_first.transpose(0, 1)
        observed = self.rssm.observe(self.encode(target[:seen]), actions[:seen], is_first[:seen], noise[:seen])
        state = map_state(lambda x: x[-1], observed.states)
        imagined = imagine_actions(state, self.rssm.prior_weights(), actions[seen:], noise[seen:])
        return self.frames(torch.cat([features(observed.states), features(imagined)]))

    def filter(self, state: State, action: Tensor, observation: Tensor, noise: Tensor) -> State:
        """The posterior state after one more observation: ([N, ...], [N, A], [N, O], [N, S]) -> [N, ...]."""
        return self.rssm.filter(state, action, self.embed(observation), noise)

    def weights(self) -> WorldModelWeights | None:
        """The live parameters; None where there are more than these: convolutions, a discount head, or norms."""
        if isinstance(self.encoder, ConvEncoder) or isinstance(self.decoder, ConvDecoder) or self.discount is not None:
            return None
        if self.config.norm:
            return None
        return WorldModelWeights(
            self.encoder.weights(),
            self.rssm.prior_weights(),
            self.rssm.posterior_weights(),
            self.decoder.weights(),
            self.reward.weights(),
        )

    def discount_weights(self) -> MLPWeights | None:
        """The live parameters of the discount head, None where it is off."""
        return None if self.discount is None else self.discount.weights()
