"""What HIRO's high level proposes (SPEC section 5): changes of the observation, or skills."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lsp_fast.backends import Backend
from lsp_fast.config import Config
from lsp_fast.experience.replay import Replay
from lsp_fast.learning.optimizer import Optimizer
from lsp_fast.models.skill_predictor import SkillPredictor
from lsp_fast.noise import Noise

MIN_RANGE = 1e-3
"""Half-range of a goal's entry that the prefill never moved."""


class Segments(NamedTuple):
    """c agent steps each, or fewer where the episode ended before; rows as `Replay.segments` gives them."""

    observation: Tensor  # [B, c + 1, O]
    action: Tensor  # [B, c + 1, A], the one that led to the observation
    reward: Tensor  # [B, c + 1]
    terminal: Tensor  # [B, c + 1]
    is_first: Tensor  # [B, c + 1]
    extras: Tensor  # [B, c + 1, G + 1], goal in force at that action, and whether there was one
    steps: Tensor  # [B] int64, agent steps that were made


class Goals(ABC):
    """A kind of goal. The high level proposes one [G] within ± its half-range; its *aim* is what stays the same while
    it is held, and the low level sees the aim from the state that it is in.

    Attributes:
        dim: G.
        initial_range: half-range before the prefill.
        modules, optimizers: what the kind itself learns with, by name.
    """

    dim: int
    initial_range: float = 1.0
    modules: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]

    def __init__(self) -> None:
        self.modules, self.optimizers = {}, {}

    def half_range(self, replay: Replay) -> Tensor | None:
        """Half-ranges [G] from the prefill; None where they are fixed."""
        return None

    @abstractmethod
    def aim(self, goal: Tensor, observation: Tensor) -> Tensor:
        """Where a goal that is proposed in a state leads: ([..., G], [..., O]) -> [..., G]."""

    @abstractmethod
    def seen(self, aim: Tensor, observation: Tensor) -> Tensor:
        """The aim as the low level sees it in a state: ([..., G], [..., O]) -> [..., G]."""

    @abstractmethod
    def reached(self, batch: Segments, scale: Tensor) -> Tensor:
        """The goal, as the high level would have proposed it, that each segment's steps were for: [B, G]."""

    @abstractmethod
    def hindsight(self, batch: Segments, scale: Tensor) -> Tensor:
        """Its aim, [B, G]."""

    @abstractmethod
    def reward(
        self, batch: Segments, aim: Tensor, given: Tensor, reward: Tensor, after: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the low level earns for a step, [B], and metrics; what the kind learns, it learns here.

        Args:
            aim: [B, G], in force; given: [B] bool, whether the high level had set it.
            reward: [B], of the task; after: [B, O], the state that the step led to.
        """


class StateGoals(Goals):
    """Changes of some entries of the observation. Goals go over into each other so that s + g stays what it was.

    Args:
        entries: int64 [G], of the observation.
    """

    def __init__(self, config: Config, entries: Tensor) -> None:
        super().__init__()
        self.config, self.entries, self.dim = config, entries, len(entries)

    def half_range(self, replay: Replay) -> Tensor | None:
        """`hiro.goal_range` standard deviations of how far the prefill got in c steps; where every episode ends before,
        in an episode."""
        entries, c = self.entries.cpu().numpy(), self.config.skill.length
        episodes = [rows.observation[:, entries] for rows in replay.episodes()]
        c = min(c, max(map(len, episodes)) - 1)
        moved = [rows[c:] - rows[:-c] for rows in episodes if len(rows) > c]
        spread = torch.as_tensor(np.concatenate(moved).std(0), dtype=torch.float32)
        return (self.config.hiro.goal_range * spread).clamp(min=MIN_RANGE)

    def aim(self, goal: Tensor, observation: Tensor) -> Tensor:
        """s + g"""
        return observation[..., self.entries] + goal

    def seen(self, aim: Tensor, observation: Tensor) -> Tensor:
        """What is left of the way."""
        return aim - observation[..., self.entries]

    def reached(self, batch: Segments, scale: Tensor) -> Tensor:
        """The change itself."""
        return (batch.observation[:, -1] - batch.observation[:, 0])[:, self.entries]

    def hindsight(self, batch: Segments, scale: Tensor) -> Tensor:
        """Where the segment ended."""
        # Not aim(reached(...), s): s + (s' - s) is s' but for rounding.
        return batch.observation[:, -1][:, self.entries]

    def reward(
        self, batch: Segments, aim: Tensor, given: Tensor, reward: Tensor, after: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the distance that is left; the task's own reward does not count."""
        left = goal_reward(aim, after[:, self.entries])
        return left, {"hiro/goal_reward": left.mean()}


class SkillGoals(Goals):
    """Skills: the same in every state. The low level earns the task's reward and what the backward predictor, which
    sees the observations of the real segment, tells of the skill.

    Args:
        width: O.
        generator: draws the predictor's weights.
        noise: the agent's.
    """

    def __init__(
        self,
        config: Config,
        width: int,
        generator: torch.Generator,
        noise: Noise,
        device: torch.device,
        backend: Backend,
    ) -> None:
        super().__init__()
        c = self.config = config
        self.noise, self.dim, self.initial_range = noise, c.skill.dim, c.hiro.skill_range
        self.predictor = SkillPredictor(width, c.skill, c.predictor, c.model, generator).to(device)
        self.modules["predictor"] = self.predictor
        self.optimizers["predictor"] = Optimizer(self.predictor, c.predictor.learning_rate, c, device, backend)

    def aim(self, goal: Tensor, observation: Tensor) -> Tensor:
        """The skill."""
        return goal

    def seen(self, aim: Tensor, observation: Tensor) -> Tensor:
        """The skill."""
        return aim

    @torch.no_grad()
    def reached(self, batch: Segments, scale: Tensor) -> Tensor:
        """The predictor's mean, within the range of skills."""
        noise = self.noise.normal("hiro/predicted", *self.predictor.noise_shape(len(batch.reward)))
        states = batch.observation.transpose(0, 1)  # [c + 1, B, O]
        return torch.clamp(self.predictor.mean(states[1:], states[0], noise), -scale, scale)

    def hindsight(self, batch: Segments, scale: Tensor) -> Tensor:
        """The same."""
        return self.reached(batch, scale)

    def reward(
        self, batch: Segments, aim: Tensor, given: Tensor, reward: Tensor, after: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """R + beta * log q(z | segment) / c, and one step of the predictor on the skills that were set."""
        states, shape = batch.observation.transpose(0, 1), self.predictor.noise_shape(len(aim))
        # A segment that the episode's end cut short tells nothing of its skill (SPEC section 4).
        whole = batch.steps == self.config.skill.length
        given = given & whole
        with torch.no_grad():
            told = self.predictor.log_prob(states[1:], states[0], aim, self.noise.normal("hiro/intrinsic", *shape))
        drawn = self.noise.normal("hiro/predictor", *shape)
        log_q = self.predictor.log_prob(states[1:], states[0], aim, drawn)
        loss = -(log_q * given).sum() / given.sum().clamp(min=1)
        metrics = {
            "hiro/log_q": (told * whole).sum() / whole.sum().clamp(min=1),
            "hiro/predictor_loss": loss.detach(),
            "hiro/predictor_grad_norm": self.optimizers["predictor"].step(loss),
        }
        return reward + whole * (self.config.skill.beta * told / self.config.skill.length), metrics


def goal_reward(aim: Tensor, reached: Tensor) -> Tensor:
    """-sqrt(|s + g - s'|^2 + 1e-10), with the aim s + g [..., G] and s' [..., G] -> [...]"""
    return -((aim - reached).square().sum(-1) + 1e-10).sqrt()
