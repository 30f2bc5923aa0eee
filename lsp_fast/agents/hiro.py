"""HIRO (Nachum et al. 2018): a high level proposes goals, a low level pursues them, both by TD3 (SPEC section 5).

Goals are changes of the observation (`hiro.goals = states`), or skills (`skills`), which is the HIRO that the paper
compares with: `lsp_fast.agents.goals` says how they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lsp_fast import processes
from lsp_fast.agents import td3
from lsp_fast.agents.base import Agent
from lsp_fast.agents.goals import Goals, Segments, SkillGoals, StateGoals
from lsp_fast.agents.td3 import TD3
from lsp_fast.config import Config
from lsp_fast.experience.replay import Replay, SegmentBatch
from lsp_fast.noise import Noise
from lsp_fast.observed import Plain


def most_likely(
    candidates: Tensor, actions: Tensor, low: TD3, observations: Tensor, seen: Tensor, steps: Tensor
) -> Tensor:
    """The candidate goal under which the low level best explains its actions: least squared error (SPEC section 5).

    Args:
        candidates: [N, D, G]
        actions: [N, c, A], what was done.
        low: the low level as it is now.
        observations: [N, c, O], the states that it was done in.
        seen: [N, D, c, G], each candidate as the low level would have seen it there.
        steps: [N], how many of the c were made.

    Returns:
        index [N] of the candidate; the first of equals.
    """
    tries = candidates.shape[1]
    x = torch.cat([observations[:, None].expand(-1, tries, -1, -1), seen], -1)  # [N, D, c, O + G]
    made = torch.arange(actions.shape[1], device=steps.device) < steps[:, None]  # [N, c]
    errors = (low.act(x) - actions[:, None]).square() * made[:, None, :, None]
    return errors.sum((-2, -1)).argmin(1)


@dataclass(frozen=True)
class HiroCarry:
    """What the policy remembers: rows are environments."""

    aim: Tensor  # [N, G], of the goal in force
    step: Tensor  # [N] int64, agent steps since the episode began
    noise: Noise
    explore: bool

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"goal": self.aim, "step": self.step, "noise": self.noise.state_dict()}

    def loaded(self, state: dict[str, Any], env_steps: int = 0) -> HiroCarry:
        """This one as `state_dict` found it, after so many environment steps."""
        self.noise.load_state_dict(state["noise"], env_steps)
        return replace(self, aim=state["goal"].to(self.aim.device), step=state["step"])


class HiroAgent(Agent):
    """TD3 twice. Every c = `skill.length` agent steps the high level sets a goal, as far as `hiro` says.

    Args:
        goals: entries of the observation that goals are about; None takes all. Skills have `skill.dim` entries.
    """

    def __init__(
        self, observation: Plain | Sequence[int], action_dim: int, config: Config, goals: Sequence[int] | None = None
    ) -> None:
        super().__init__(observation, action_dim, config)
        c, width, initial = config, self.observation_shape[0], Noise(config.seed)
        self.length = c.skill.length
        self.goals: Goals
        if c.hiro.goals == "skills":
            self.goals = SkillGoals(
                c, width, initial.generator("init/predictor"), self.noise, self.device, self.backend
            )
        else:
            entries = torch.as_tensor(range(width) if goals is None else list(goals), device=self.device)
            self.goals = StateGoals(c, entries)
        self.extras_dim = self.goals.dim + 1
        self.high = TD3(width, self.goals.dim, c, initial.generator("init/high"))
        self.low = TD3(width + self.goals.dim, action_dim, c, initial.generator("init/low"))
        self.high.scale.fill_(self.goals.initial_range)
        modules: dict[str, nn.Module] = {"high": self.high, "low": self.low, **self.goals.modules}
        self.modules = nn.ModuleDict(modules).to(self.device)
        self._levels = {
            "high": self.high.optimizers(c, self.device, self.backend),
            "low": self.low.optimizers(c, self.device, self.backend),
        }
        levels = {f"{level}_{k}": o for level, held in self._levels.items() for k, o in held.items()}
        self.optimizers = levels | self.goals.optimizers
        self.updates = 0

    # Observation -> action

    def initial_carry(self, batch: int, *, explore: bool = False, noise: Noise | None = None) -> HiroCarry:
        """Memory for `batch` episodes that begin now; `explore` adds noise to goals and actions."""
        return HiroCarry(
            torch.zeros(batch, self.goals.dim, device=self.device),
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
        with self.backend.alone():
            action, aim = self._act(obs, carry)
        return action.cpu().numpy(), replace(carry, aim=aim, step=carry.step + 1)

    def _act(self, obs: Tensor, carry: HiroCarry) -> tuple[Tensor, Tensor]:
        """The action [N, A], and the aim that is in force [N, G]."""
        aim = carry.aim
        rows = (carry.step % self.length == 0).nonzero()[:, 0]
        if len(rows):
            rows = self.upload(rows)
            aim = aim.index_copy(0, rows, self.propose(obs[rows], carry.noise, explore=carry.explore))
        return self.act(obs, aim, carry.noise, explore=carry.explore), aim

    def propose(self, obs: Tensor, noise: Noise, *, explore: bool) -> Tensor:
        """The aim of the goal that the high level sets in each state: [N, O] -> [N, G]."""
        goal, scale = self.high.act(obs), self.high.scale
        if explore:
            extra = noise.normal("act/goal", *goal.shape)
            goal = torch.clamp(goal + self.config.hiro.goal_noise * scale * extra, -scale, scale)
        return self.goals.aim(goal, obs)

    def act(self, obs: Tensor, aim: Tensor, noise: Noise, *, explore: bool) -> Tensor:
        """The low level's action under an aim: ([N, O], [N, G]) -> [N, A]."""
        action = self.low.act(torch.cat([obs, self.goals.seen(aim, obs)], -1))
        if explore:
            extra = noise.normal("act/exploration", *action.shape)
            action = (action + self.exploration * extra).clamp(-1, 1)
        return action

    def extras(self, carry: HiroCarry) -> np.ndarray:
        """The aim in force, and 1: that there is one. Rows of random actions are zeros."""
        return torch.cat([carry.aim, torch.ones(len(carry.aim), 1, device=self.device)], -1).cpu().numpy()

    # Batch -> gradient

    def fit(self, replay: Replay) -> None:
        """The range of goals, where the prefill decides it."""
        if (half_range := self.goals.half_range(replay)) is not None:
            [half_range] = processes.average([half_range])
            self.high.scale.copy_(half_range)

    def sample(self, replay: Replay, rng: np.random.Generator) -> SegmentBatch:
        """Segments of c steps that one goal was held for, the last ones of episodes shorter: [B, c + 1, ...]."""
        return replay.segments(rng, self.config.train.batch_size, self.length)

    def update(self, batch: Sequence[Tensor], *, behavior: bool = True, diagnose: bool = False) -> dict[str, Tensor]:
        """One update of the low level from a step of each segment; every c-th time one of the high level, too.

        Args:
            batch: the fields of `Segments` on the agent's device.
        """
        segments = Segments(*batch)
        delay, turn = self.config.hiro.delay, self.updates // self.length
        with self.backend.alone():
            metrics = self._update_low(segments, actor=self.updates % delay == 0)
            if self.updates % self.length == 0:
                metrics |= self._update_high(segments, actor=turn % delay == 0)
        self.updates += 1
        return metrics

    def aims(self, batch: Segments) -> tuple[Tensor, Tensor]:
        """Each segment's aim [B, G], and whether it was set [B]. Where actions were random, the goal is what they led
        to: the change itself, or the skill that the predictor takes them for."""
        # One goal from the first step to the last: learning may have begun in the middle of a segment.
        given = (batch.extras[:, 1:] == batch.extras[:, 1:2]).all(-1).all(-1) & (batch.extras[:, 1, -1] > 0)
        hindsight = self.goals.hindsight(batch, self.high.scale)
        return torch.where(given[:, None], batch.extras[:, 1, :-1], hindsight), given

    def _update_low(self, batch: Segments, actor: bool) -> dict[str, Tensor]:
        size = len(batch.reward)
        aim, given = self.aims(batch)
        rows = torch.arange(size, device=self.device)
        t = self.noise.words("hiro/step", size) % batch.steps
        before, after = batch.observation[rows, t], batch.observation[rows, t + 1]
        reward, metrics = self.goals.reward(batch, aim, given, batch.reward[rows, t + 1], after)
        found = td3.learn(
            self.low,
            self._levels["low"],
            torch.cat([before, self.goals.seen(aim, before)], -1),
            batch.action[rows, t + 1],
            reward,
            batch.terminal[rows, t + 1],
            torch.cat([after, self.goals.seen(aim, after)], -1),
            self.noise,
            "hiro/low_smoothing",
            actor=actor,
        )
        return metrics | {f"hiro/low_{k}": v for k, v in found.items()}

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

        The candidates are draws around what the segment led to, that itself, and the goal that was set.

        Returns:
            goals [B, G] as the high level proposes them, and the share that is another one than was set, 0-d.
        """
        h, size, scale = self.config.hiro, len(batch.reward), self.high.scale
        first, states = batch.observation[:, 0], batch.observation[:, :-1]
        aim, _ = self.aims(batch)
        original = self.goals.seen(aim, first)
        centre = self.goals.reached(batch, scale)
        drawn = self.noise.normal("hiro/candidates", size, h.candidates - 2, self.goals.dim)
        around = centre[:, None] + h.candidate_std * scale * drawn
        candidates = torch.cat([torch.cat([around, centre[:, None]], 1).clamp(-scale, scale), original[:, None]], 1)
        # As the low level would have seen each on the way, [B, D, c, G].
        aims = self.goals.aim(candidates, first[:, None])
        seen = self.goals.seen(aims[:, :, None].expand(-1, -1, self.length, -1), states[:, None])
        best = most_likely(candidates, batch.action[:, 1:], self.low, states, seen, batch.steps)
        chosen = candidates[torch.arange(size, device=self.device), best]
        return chosen, (best != h.candidates - 1).float().mean()

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimisers, noise, and whose turn it is."""
        return {**super().state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any], env_steps: int = 0) -> None:
        """Restore what `state_dict` gave."""
        super().load_state_dict(state, env_steps)
        self.updates = state["updates"]
