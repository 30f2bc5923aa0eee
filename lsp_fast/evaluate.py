"""Whole episodes of an agent, or of a policy that does not look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np

from lsp_fast import agents, envs, threads
from lsp_fast.agents import Agent
from lsp_fast.config import Config
from lsp_fast.envs.goals import goal_entries
from lsp_fast.experience.driver import Driver, EpisodeSummary
from lsp_fast.noise import Noise, stream_seed
from lsp_fast.storage import checkpoint
from lsp_fast.storage.run_folder import read_run

Policy = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(observations [N, O], is_first [N]) -> actions [N, A]"""


@dataclass(frozen=True)
class Score:
    """Returns of some episodes."""

    returns: list[float]
    success: float | None = None
    """Share of episodes that reached the task's goal; None where it has none."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    def __str__(self) -> str:
        low, high = min(self.returns), max(self.returns)
        reached = "" if self.success is None else f", {self.success:.0%} reached the goal"
        return f"{self.mean:.1f} (min {low:.1f}, max {high:.1f}, {len(self.returns)} episodes{reached})"


class Evaluator:
    """Episodes of one task, run side by side; each call starts from layouts of its own seed.

    Args:
        config: task and action repeat are used.
        episodes: how many.
    """

    def __init__(self, config: Config, episodes: int) -> None:
        self.config = config
        self.envs = [make_env(config) for _ in range(episodes)]

    def run(self, policy: Policy, seed: int) -> Score:
        """One episode per environment."""
        driver = Driver(self.envs, seed)
        driver.reset()
        episodes: dict[int, EpisodeSummary] = {}
        while len(episodes) < len(self.envs):
            result = driver.step(policy(driver.observations, driver.is_first))
            for episode in result.finished:
                # Where episodes differ in length, a second one of a faster environment does not count.
                episodes.setdefault(episode.env, episode)
        reached = [episode.success for episode in episodes.values() if episode.success is not None]
        return Score(
            [episodes[i].episode_return for i in range(len(self.envs))], float(np.mean(reached)) if reached else None
        )

    def run_agent(self, agent: Agent, seed: int, explore: bool = False) -> Score:
        """Episodes of the agent; its own noise is not touched, so that evaluating changes nothing in training."""
        carry = agent.initial_carry(len(self.envs), explore=explore, noise=Noise(seed, agent.device))

        def policy(observations: np.ndarray, is_first: np.ndarray) -> np.ndarray:
            nonlocal carry
            actions, carry = agent.policy(observations, agent.reset(carry, is_first))
            return actions

        return self.run(policy, seed)


def baselines(config: Config, episodes: int, seed: int = 0) -> dict[str, Score]:
    """What a policy scores without learning: uniformly random actions, zero actions, and the untrained agent."""
    evaluator = Evaluator(config, episodes)
    obs_dim, action_dim = dimensions(evaluator.envs[0])
    rng = np.random.default_rng(stream_seed(seed, "baseline"))

    def random(observations: np.ndarray, is_first: np.ndarray) -> np.ndarray:
        return rng.uniform(-1, 1, (len(observations), action_dim)).astype(np.float32)

    def zero(observations: np.ndarray, is_first: np.ndarray) -> np.ndarray:
        return np.zeros((len(observations), action_dim), np.float32)

    untrained = agents.make(obs_dim, action_dim, config, goal_entries(evaluator.envs[0]))
    return {
        "random actions": evaluator.run(random, seed),
        "zero actions": evaluator.run(zero, seed),
        "untrained": evaluator.run_agent(untrained, seed),
        "untrained, exploring": evaluator.run_agent(untrained, seed, explore=True),
    }


def make_env(config: Config) -> gymnasium.Env:
    """An environment as the configuration says."""
    repeat = config.collect.action_repeat
    return envs.make(config.task, action_repeat=repeat, obs=config.obs, fast_render=config.fast_render)


def dimensions(env) -> tuple[int | tuple[int, ...], int]:
    """An environment's observation, by its width or (of frames) its shape, and the width of its action."""
    width, *more = map(int, env.observation_space.shape)
    return ((width, *more) if more else width), int(env.action_space.shape[0])


def load(logdir: str | Path, *, device: str = "auto", backend: str = "auto") -> Agent:
    """The trained agent of a run folder, from its newest checkpoint.

    Raises:
        CheckpointError: the folder holds no run, or no checkpoint that can be read.
    """
    threads.use()
    config, state = read_run(Path(logdir), device=device, backend=backend)
    with checkpoint.fitting(state):
        agent = agents.make(checkpoint.observation_of(state), state["action_dim"], config, state.get("goals"))
        agent.load_weights(state["agent"])
    return agent
