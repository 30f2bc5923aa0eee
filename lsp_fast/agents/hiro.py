"""HIRO (Nachum et al. 2018): a high level proposes goals, a low level pursues them, both by TD3 (SPEC section 5).

Goals are changes of the observation (`hiro.goals = states`), or skills (`skills`), which is the HIRO that the paper
compares with: there the low level earns the task's reward and what the backward predictor tells of the skill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lsp_fast.agents import td3
from lsp_fast.agents.base import Agent
from lsp_fast.agents.td3 import TD3
from lsp_fast.config import Config
from lsp_fast.experience.replay import Replay, Rows
from lsp_fast.learning.optimizer import Optimizer
from lsp_fast.models.skill_predictor import SkillPredictor
from lsp_fast.noise import Noise

MIN_RANGE = 1e-3
"""Half-range of a goal's entry that the prefill never moved."""


def goal_reward(aim: Tensor, reached: Tensor) -> Tensor:
    """-sqrt(|s + g - s'|^2 + 1e-10), with the aim s + g [..., G] and s' [..., G] -> [...]"""
    return -((aim - reached).square().sum(-1) + 1e-10).sqrt()


def most_likely(candidates: Tensor, actions: Tensor, low: TD3, observations: Tensor, seen: Tensor) -> Tensor:
    """The candidate goal under which the low level best explains its actions: least squared error (SPEC section 5).

    Args:
        candidates: [N, D, G]
        actions: [N, c, A], what was done.
        low: the low level as it is now.
        observations: [N, c, O], the states that it was done in.
        seen: [N, D, c, G], each candidate as the low level would have seen it there.

    Returns:
        index [N] of the candidate; the first of equals.
    """
    tries = candidates.shape[1]
    x = torch.cat([observations[:, None].expand(-1, tries, -1, -1), seen], -1)  # [N, D, c, O + G]
    return (low.act(x) - actions[:, None]).square().sum((-2, -1)).argmin(1)


@dataclass(frozen=True)
class HiroCarry:
    """What the policy remembers: rows are environments."""

    goal: Tensor  # [N, G], where the goal leads (the aim, s + g), or the skill
    step: Tensor  # [N] int64, agent steps since the episode began
    noise: Noise
    explore: bool

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"goal": self.goal, "step": self.step, "noise": self.noise.state_dict()}

    def loaded(self, state: dict[str, Any]) -> HiroCarry:
        """This one as `state_dict` found it."""
        self.noise.load_state_dict(state["noise"])
        return replace(self, goal=state["goal"].to(self.goal.device), step=state["step"])


class Segments(NamedTuple):
    """c agent steps each; rows as in the replay, the first being the state that the segment begins in."""

    observation: Tensor  # [B, c + 1, O]
    action: Tensor  # [B, c + 1, A], the one that led to the observation
    reward: Tensor  # [B, c + 1]
    terminal: Tensor  # [B, c + 1]
    is_first: Tensor  # [B, c + 1]
    extras: Tensor  # [B, c + 1, G + 1], goal in force at that action, and whether there was one


class HiroAgent(Agent):
    """TD3 twice. Every c = `skill.length` agent steps the high level sets a goal, as far as `hiro` says.

    Args:
        goals: entries of the observation that goals are about; None takes all. Skills have `skill.dim` entries.
    """

    def __init__(
        self, observation: int | Sequence[int], action_dim: int, config: Config, goals: Sequence[int] | None = None
    ) -> None:
        super().__init__(observation, action_dim, config)
        c, width = config, self.observation_shape[0]
        self.skills = c.hiro.goals == "skills"
        self.length = c.skill.length
        self.entries = torch.as_tensor(range(width) if goals is None else list(goals), device=self.device)
        self.goal_dim = c.skill.dim if self.skills else len(self.entries)
        self.extras_dim = self.goal_dim + 1
        initial = Noise(c.seed)
        self.high = TD3(width, self.goal_dim, c, initial.generator("init/high"))
        self.low = TD3(width + self.goal_dim, action_dim, c, initial.generator("init/low"))
        modules: dict[str, nn.Module] = {"high": self.high, "low": self.low}
        self.predictor = None
        if self.skills:
            self.high.scale.fill_(c.hiro.skill_range)
            modules["predictor"] = self.predictor = SkillPredictor(
                width, c.skill, c.predictor, c.model, initial.generator("init/predictor")
            )
        self.modules = nn.ModuleDict(modules).to(self.device)
        self._levels = {
            "high": self.high.optimizers(c, self.device),
            "low": self.low.optimizers(c, self.device),
        }
        self.optimizers = {f"{level}_{k}": o for level, held in self._levels.items() for k, o in held.items()}
        if self.predictor is not None:
            self.optimizers["predictor"] = Optimizer(self.predictor, c.predictor.learning_rate, c, self.device)
        self.updates = 0

    # Observation -> action

    def initial_carry(self, batch: int, *, explore: bool = False, noise: Noise | None = None) -> HiroCarry:
        """Memory for `batch` episodes that begin now; `explore` adds noise to goals and actions."""
        return HiroCarry(
            torch.zeros(batch, self.goal_dim, device=self.device),
            torch.zeros(batch, dtype=torch.int64),
            noise if noise is not None else Noise(self.config.seed, self.device),
            explore,
        )

    def reset(self, carry: HiroCarry, is_first: np.ndarray | Tensor) -> HiroCarry:
        """Forget the episodes where `is_first` [N] is true."""
        return replace(carry, step=torch.where(torch.as_tensor(is_first, dtype=torch.bool), 0, carry.step))

    @torch.no_grad()
    def policy(self, observation: np.ndarray | Tensor, carry: HiroCarry) -> tuple[np.ndarray, HiroCarry]:
        """Act: a new goal where the last one has been held c steps, then the low level's action.

        Raises:
            ValueError: an observation of another shape.
        """
        n = len(carry.step)
        obs = self.checked(observation, n)
        aim, h = carry.goal, self.config.hiro
        rows = (carry.step % self.length == 0).nonzero()[:, 0].to(self.device)
        if len(rows):
            goal = self.high.act(obs[rows])
            if carry.explore:
                extra = carry.noise.normal("act/goal", *goal.shape)
                goal = torch.clamp(goal + h.goal_noise * self.high.scale * extra, -self.high.scale, self.high.scale)
            aim = aim.index_copy(0, rows, goal if self.skills else obs[rows][:, self.entries] + goal)
        action = self.low.act(torch.cat([obs, self.seen(aim, obs)], -1))
        if carry.explore:
            extra = carry.noise.normal("act/exploration", n, self.action_dim)
            action = (action + self.config.collect.exploration_noise * extra).clamp(-1, 1)
        return action.cpu().numpy(), replace(carry, goal=aim, step=carry.step + 1)

    def seen(self, aim: Tensor, observation: Tensor) -> Tensor:
        """A goal as the low level sees it in a state: skills as they are, of aims what is left of the way.

        Goals thus go over into each other so that s + g stays what it was: ([..., G], [..., O]) -> [..., G].
        """
        return aim if self.skills else aim - observation[..., self.entries]

    def extras(self, carry: HiroCarry) -> np.ndarray:
        """The goal in force, and 1: that there is one. Rows of random actions are zeros."""
        return torch.cat([carry.goal, torch.ones(len(carry.goal), 1, device=self.device)], -1).cpu().numpy()

    # Batch -> gradient

    def fit(self, replay: Replay) -> None:
        """The range of goals: `hiro.goal_range` standard deviations of how far the prefill got in c steps."""
        if self.skills:
            return
        entries = self.entries.cpu().numpy()
        moved = [rows.observation[self.length :, entries] - rows.observation[: -self.length, entries]
                 for rows in replay.episodes() if len(rows.reward) > self.length]  # fmt: skip
        if moved:
            spread = torch.as_tensor(np.concatenate(moved).std(0), dtype=torch.float32)
            self.high.scale.copy_((self.config.hiro.goal_range * spread).clamp(min=MIN_RANGE))

    def sample(self, replay: Replay, rng: np.random.Generator) -> Rows:
        """Segments of c steps that one goal was held for: [B, c + 1, ...]."""
        return replay.segments(rng, self.config.train.batch_size, self.length)

    def update(self, batch: Sequence[Tensor], *, behavior: bool = True, diagnose: bool = False) -> dict[str, Tensor]:
        """One update of the low level from a step of each segment; every c-th time one of the high level, too.

        Args:
            batch: the fields of `Segments` on the agent's device.
        """
        segments = Segments(*batch)
        delay, turn = self.config.hiro.delay, self.updates // self.length
        metrics = self._update_low(segments, actor=self.updates % delay == 0)
        if self.updates % self.length == 0:
            metrics |= self._update_high(segments, actor=turn % delay == 0)
        self.updates += 1
        return metrics

    def _goals(self, batch: Segments) -> tuple[Tensor, Tensor]:
        """Each segment's aim or skill [B, G], and whether it was set [B]. Where actions were random, the goal is what
        they led to: the change itself, or the skill that the predictor takes them for."""
        # One goal from the first step to the last: learning may have begun in the middle of a segment.
        given = (batch.extras[:, 1:] == batch.extras[:, 1:2]).all(-1).all(-1) & (batch.extras[:, 1, -1] > 0)
        held = batch.extras[:, 1, :-1]
        with torch.no_grad():
            hindsight = self._predicted(batch) if self.skills else batch.observation[:, -1][:, self.entries]
        return torch.where(given[:, None], held, hindsight), given

    def _predicted(self, batch: Segments) -> Tensor:
        """The predictor's mean skill of each segment, [B, Z], within the range of skills."""
        assert self.predictor is not None
        noise = self.noise.normal("hiro/predicted", *self.predictor.noise_shape(len(batch.reward)))
        states = batch.observation.transpose(0, 1)  # [c + 1, B, O]
        return torch.clamp(self.predictor.mean(states[1:], states[0], noise), -self.high.scale, self.high.scale)

    def _update_low(self, batch: Segments, actor: bool) -> dict[str, Tensor]:
        size = len(batch.reward)
        aim, given = self._goals(batch)
        rows = torch.arange(size, device=self.device)
        t = self.noise.words("hiro/step", size) % self.length
        before, after = batch.observation[rows, t], batch.observation[rows, t + 1]
        metrics: dict[str, Tensor] = {}
        if self.predictor is None:
            reward = goal_reward(aim, after[:, self.entries])
            metrics["hiro/goal_reward"] = reward.mean()
        else:
            told, metrics = self._update_predictor(batch, aim, given)
            reward = batch.reward[rows, t + 1] + self.config.skill.beta * told / self.length
        found = td3.learn(
            self.low,
            self._levels["low"],
            torch.cat([before, self.seen(aim, before)], -1),
            batch.action[rows, t + 1],
            reward,
            batch.terminal[rows, t + 1],
            torch.cat([after, self.seen(aim, after)], -1),
            self.noise,
            "hiro/low_smoothing",
            actor=actor,
        )
        return metrics | {f"hiro/low_{k}": v for k, v in found.items()}

    def _update_predictor(self, batch: Segments, skill: Tensor, given: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """log q(z | segment) [B] as a reward, and one step of the predictor on the skills that were set."""
        assert self.predictor is not None
        states = batch.observation.transpose(0, 1)
        shape = self.predictor.noise_shape(len(skill))
        with torch.no_grad():
            told = self.predictor.log_prob(states[1:], states[0], skill, self.noise.normal("hiro/intrinsic", *shape))
        drawn = self.noise.normal("hiro/predictor", *shape)
        log_q = self.predictor.log_prob(states[1:], states[0], skill, drawn)
        loss = -(log_q * given).sum() / given.sum().clamp(min=1)
        return told, {
            "hiro/log_q": told.mean(),
            "hiro/predictor_loss": loss.detach(),
            "hiro/predictor_grad_norm": self.optimizers["predictor"].step(loss),
        }

    def _update_high(self, batch: Segments, actor: bool) -> dict[str, Tensor]:
        goal, moved = self.relabel(batch)
        found = td3.learn(
            self.high,
            self._levels["high"],
            batch.observation[:, 0],
            goal,
            self.config.hiro.reward_scale * batch.reward[:, 1:].sum(1),
            batch.terminal[:, -1],
            batch.observation[:, -1],
            self.noise,
            "hiro/high_smoothing",
            actor=actor,
        )
        return {"hiro/relabelled": moved} | {f"hiro/high_{k}": v for k, v in found.items()}

    @torch.no_grad()
    def relabel(self, batch: Segments) -> tuple[Tensor, Tensor]:
        """Goals under which the low level of today best explains what was done (SPEC section 5).

        The candidates are draws around what the segment led to (its change, or the predictor's mean), that itself, and
        the goal that was set.

        Returns:
            goals [B, G] as the high level proposes them, and the share that is another one than was set, 0-d.
        """
        h, size = self.config.hiro, len(batch.reward)
        first, states = batch.observation[:, 0], batch.observation[:, :-1]
        aim, _ = self._goals(batch)
        original = self.seen(aim, first)
        scale = self.high.scale
        centre = self._predicted(batch) if self.skills else (batch.observation[:, -1] - first)[:, self.entries]
        drawn = self.noise.normal("hiro/candidates", size, h.candidates - 2, self.goal_dim)
        around = centre[:, None] + h.candidate_std * scale * drawn
        candidates = torch.cat([torch.cat([around, centre[:, None]], 1).clamp(-scale, scale), original[:, None]], 1)
        # As the low level would have seen each on the way, [B, D, c, G].
        aims = candidates if self.skills else candidates + first[:, None, self.entries]
        seen = self.seen(aims[:, :, None].expand(-1, -1, self.length, -1), states[:, None])
        best = most_likely(candidates, batch.action[:, 1:], self.low, states, seen)
        chosen = candidates[torch.arange(size, device=self.device), best]
        return chosen, (best != h.candidates - 1).float().mean()

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimisers, noise, and whose turn it is."""
        return {**super().state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        super().load_state_dict(state)
        self.updates = state["updates"]
