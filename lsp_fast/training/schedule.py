"""What is due when: the phase of a run, its updates, and its cadences, all in environment steps (SPEC section 1)."""

from __future__ import annotations

import enum
from typing import Any

from lsp_fast.config import Config


class Every:
    """Says when a cadence in environment steps has come round, once for each time; of 0 it never does."""

    def __init__(self, every: int) -> None:
        self.every, self.done = every, 0

    def __call__(self, env_steps: int) -> bool:
        """Whether a multiple of `every` was passed since the last time it was asked."""
        before, self.done = self.done, max(self.done, self.passed(env_steps))
        return self.done > before

    def passed(self, env_steps: int) -> int:
        """Multiples of `every` up to these steps."""
        return env_steps // self.every if self.every else 0

    def again(self) -> None:
        """What was due the last time is due once more: it failed."""
        self.done -= 1


class Phase(enum.Enum):
    """Who acts while experience is gathered, and whether it is learned from."""

    RANDOM = "random"
    """Uniformly random actions fill the replay."""
    LOADED_POLICY = "loaded policy"
    """A policy that was taken over from another run fills it."""
    LEARNING = "learning"
    """The policy acts, and updates are owed."""


class Schedule:
    """The phase of a run and what it owes.

    Args:
        config: its cadences, prefill and transfer are used.

    Attributes:
        evaluate, log, checkpoint: cadences.
        learning_since: environment steps at which learning began; None before.
    """

    def __init__(self, config: Config) -> None:
        t = config.train
        self.config = config
        self.evaluate, self.log, self.checkpoint = Every(t.eval_every), Every(t.log_every), Every(t.checkpoint_every)
        self.learning_since: int | None = None

    @property
    def learning(self) -> bool:
        """Whether the replay holds enough to learn from."""
        return self.learning_since is not None

    @property
    def phase(self) -> Phase:
        """Of the next step."""
        if self.learning:
            return Phase.LEARNING
        return Phase.LOADED_POLICY if self.config.transfer.source else Phase.RANDOM

    def advance(self, env_steps: int, episodes: int) -> bool:
        """Begin to learn where the replay, of so many completed episodes, holds enough: the one transition there is.

        Returns:
            whether learning begins now.
        """
        # Learning needs one whole episode, however long that takes. Recorded data and relabelled experience are there
        # from the start.
        enough = bool(self.config.data) or self.config.transfer.relabel or env_steps >= self.config.collect.prefill
        if self.learning or not enough or not episodes:
            return False
        self.learning_since = env_steps
        return True

    def refits(self, before: int, env_steps: int) -> bool:
        """Whether the scales of observations are taken anew after the steps from `before` to `env_steps`
        (`model.normaliser`). It follows from the counts alone, so that a run that goes on does the same."""
        c = self.config
        # Networks that were taken over keep the scales that they came with, a frozen policy above all.
        if c.model.normaliser != "replay" or not self.learning or c.transfer.source:
            return False
        return before // c.model.normaliser_every != env_steps // c.model.normaliser_every

    def films(self, before: int, env_steps: int) -> bool:
        """Whether the evaluation at `env_steps` is filmed, the one before it at `before`: once for each `video_every`.
        It follows from the counts alone, as above."""
        every = self.config.train.video_every
        return every > 0 and before // every != env_steps // every

    def updates_due(self, env_steps: int) -> int:
        """Updates owed by now: the pretrain ones, and one per `train_every` environment steps since learning began."""
        t = self.config.train
        return 0 if self.learning_since is None else t.pretrain + (env_steps - self.learning_since) // t.train_every

    def updates_due_first(self, env_steps: int) -> int:
        """Updates owed before the next step: all, or with `train.overlap` those that precede all learning."""
        due = self.updates_due(env_steps)
        return min(due, self.config.train.pretrain) if self.config.train.overlap else due

    def pretraining(self, updates: int) -> bool:
        """Whether the next update trains the world model alone."""
        t = self.config.train
        return t.pretrain_world_model_only and updates < t.pretrain

    def diagnosing(self, updates: int) -> bool:
        """Whether the next update also measures the planner's health."""
        return (updates - self.config.train.pretrain) % self.config.train.health_every == 0

    def finished(self, env_steps: int) -> bool:
        """Whether the run has all its environment steps."""
        return env_steps >= self.config.env_steps

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "prefilled": self.learning_since or 0,
            "due": {name: (every.every, every.done) for name, every in self._cadences().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; a cadence that is another one now begins its own count."""
        self.learning_since = state["prefilled"] or None
        for name, cadence in self._cadences().items():
            every, done = state["due"][name]
            cadence.done = done if every == cadence.every else cadence.passed(state["env_steps"])

    def _cadences(self) -> dict[str, Every]:
        return {"evaluate": self.evaluate, "log": self.log, "checkpoint": self.checkpoint}
