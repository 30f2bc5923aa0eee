"""Whole episodes of an agent, or of a policy that does not look."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from lsp_fast import agents, backends, envs, threads
from lsp_fast.agents import Agent
from lsp_fast.config import Config, check_seed, replace
from lsp_fast.envs.answers import ask
from lsp_fast.envs.goals import goal_entries
from lsp_fast.envs.gym import PREFIX
from lsp_fast.errors import ConfigError, LspFastError
from lsp_fast.experience.driver import Driver, EpisodeSummary
from lsp_fast.experience.workers import Workers
from lsp_fast.noise import Noise, stream_seed
from lsp_fast.observed import Plain
from lsp_fast.storage import checkpoint
from lsp_fast.storage.sources import read_run

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

    Of some environments there can be only one, or several disturb each other. Then there is one, and its episodes
    follow each other; with `training` it may be the very one that is trained in.

    Args:
        config: task and action repeat are used.
        episodes: how many.
        training: environments of the same task that are stepped between the evaluations.
        workers: that made those, and make more; None makes them in this process.

    Attributes:
        envs: that are stepped.
        shared: whether that is the one of `training`: an evaluation ends the episode that is running there.

    Raises:
        LspFastError: the environment cannot be made.
    """

    def __init__(
        self,
        config: Config,
        episodes: int,
        training: Sequence[gymnasium.Env] = (),
        workers: Workers | None = None,
    ) -> None:
        self.config, self.episodes, self.shared, self._workers = config, episodes, False, workers
        self._made: list[gymnasium.Env] = []
        try:
            self.envs = self._choose(list(training))
        except BaseException:
            self.close()
            raise

    def _choose(self, training: list[gymnasium.Env]) -> list[gymnasium.Env]:
        """As many environments as there can be of those that do not disturb each other."""
        task = self.config.task
        try:
            while len(self._made) < self.episodes:
                self._made.append(make_env(self.config, self._workers))
        except LspFastError as error:
            if not task.startswith(PREFIX) or not (training or self._made):
                raise
            if not self._made and len(training) > 1:
                raise LspFastError(
                    f"{error}; for one that is trained and evaluated in, set --collect.num-envs 1"
                ) from error
            why = f"{error}; there can be only {len(training) + len(self._made)} of this environment"
            chosen = self._made or training
        else:
            found = [*training, *self._made]
            # The last two of one process: they are made there in turn.
            apart = self._workers.count if self._workers else 1
            if not task.startswith(PREFIX) or len(found) <= apart or not disturb(found[-1 - apart], found[-1]):
                return self._made
            why = (
                f"{task}: two of its environments disturb each other, as they share the state of a module, a server or "
                "a generator"
            )
            if len(training) > 1:
                why += " (so do those that are trained in: set --collect.num-envs 1)"
            # The others are closed at the end, like all: closing one might disturb, too.
            chosen = training if len(training) == 1 else self._made[:1]
        self.shared = chosen is training
        where = (
            "the one that is trained in, where an episode begins"
            if self.shared
            else f"{len(chosen)} of them, one episode after another"
        )
        warnings.warn(f"{why}; evaluated in {where}", stacklevel=3)
        return chosen

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the environments that were made here."""
        made, self._made = self._made, []
        close(made)

    def run(self, policy: Policy, seed: int) -> Score:
        """So many episodes, side by side where there are as many environments.

        Raises:
            EnvironmentFailed: one of them did.
        """
        driver = Driver(self.envs, seed)
        driver.reset()
        each = -(-self.episodes // len(self.envs))
        found: list[list[EpisodeSummary]] = [[] for _ in self.envs]
        # Where episodes differ in length, one more of a faster environment does not count.
        while min(map(len, found)) < each:
            for episode in driver.step(policy(driver.observations, driver.is_first)).finished:
                found[episode.env].append(episode)
        counted = [episode for episodes in found for episode in episodes[:each]][: self.episodes]
        reached = [episode.success for episode in counted if episode.success is not None]
        return Score([episode.episode_return for episode in counted], float(np.mean(reached)) if reached else None)

    def run_agent(self, agent: Agent, seed: int, explore: bool = False) -> Score:
        """Episodes of the agent; its own noise is not touched, so that evaluating changes nothing in training."""
        carry = agent.initial_carry(len(self.envs), explore=explore, noise=Noise(seed, agent.device))

        def policy(observations: np.ndarray, is_first: np.ndarray) -> np.ndarray:
            nonlocal carry
            actions, carry = agent.policy(observations, agent.reset(carry, is_first))
            return actions

        return self.run(policy, seed)


def baselines(config: Config, episodes: int, seed: int = 0) -> dict[str, Score]:
    """What a policy scores without learning: uniformly random actions, zero actions, and the untrained agent.

    Raises:
        ConfigError: the seed is none.
    """
    check_seed(seed)
    with Evaluator(config, episodes) as evaluator:
        return _baselines(config, evaluator, seed)


def _baselines(config: Config, evaluator: Evaluator, seed: int) -> dict[str, Score]:
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


def make_env(config: Config, workers: Workers | None = None) -> gymnasium.Env:
    """An environment as the configuration says, in one of the `workers` where there are any."""
    return envs.make(config.task, **_options(config)) if workers is None else workers.make()


def start_workers(config: Config) -> AbstractContextManager[Workers | None]:
    """The processes that the configuration asks for, None where it asks for none. They end with the context.

    Raises:
        LspFastError: the task's environments cannot be had in other processes.
    """
    count = config.collect.workers
    return Workers(count, config.task, **_options(config)) if count else nullcontext()


def _options(config: Config) -> dict[str, Any]:
    options = {"action_repeat": config.collect.action_repeat, "obs": config.obs, "fast_render": config.fast_render}
    return {**options, **asdict(config.observation)} if config.task.startswith(PREFIX) else options


def make_envs(config: Config, count: int, workers: Workers | None = None) -> list[gymnasium.Env]:
    """So many of them.

    Raises:
        LspFastError: one cannot be made; those before it are closed.
    """
    made: list[gymnasium.Env] = []
    try:
        while len(made) < count:
            made.append(make_env(config, workers))
    except BaseException as error:
        close(made)
        if made and isinstance(error, LspFastError):
            raise LspFastError(
                f"{error}; there are {len(made)} of them already: where there can be no more, set "
                f"--collect.num-envs {len(made)}"
            ) from error
        raise
    return made


def close(environments: Sequence[gymnasium.Env]) -> None:
    """Close all, whatever some of them say: what was done with them stays done."""
    for env in environments:
        try:
            env.close()
        except Exception as error:  # an environment may raise anything
            warnings.warn(f"closing an environment raised {type(error).__name__}: {error}", stacklevel=2)


def disturb(first: gymnasium.Env, second: gymnasium.Env) -> bool:
    """Whether stepping the second environment changes what the first one gives. Their episodes are over then.

    Raises:
        EnvironmentFailed: the first one did, alone.
    """
    action = np.zeros(first.action_space.shape or (), np.float32)

    def given(beside: bool) -> list[bytes]:
        observation, _ = ask(first, 0, 0, first.reset, seed=0)
        rows = [observation.tobytes()]
        if beside:
            second.reset(seed=1)
        for _ in range(2):
            if beside:
                second.step(action)
                beside = False
            observation, reward, terminated, truncated, _ = ask(first, 0, 1, first.step, action)
            rows.append(observation.tobytes() + np.float64(reward).tobytes())
            if terminated or truncated:
                break
        return rows

    mixed: list[bytes] = []
    for _ in range(2):  # one that raises now and then has a second chance
        with suppress(Exception):
            mixed = given(beside=True)
            break
    alone = given(beside=False)
    # One that does not even repeat itself alone says nothing about the other.
    return mixed != alone and given(beside=False) == alone


def dimensions(env) -> tuple[Plain, int]:
    """An environment's observation, by its width or (of frames) its shape or (of both) both, and the width of its
    action."""
    action_dim = int(env.action_space.shape[0])
    if (observed := getattr(env, "observed", None)) is not None:
        return observed.plain, action_dim
    width, *more = map(int, env.observation_space.shape)
    return ((width, *more) if more else width), action_dim


def load(
    logdir: str | Path, *, device: str = "auto", backend: str = "auto", planner: Mapping[str, Any] | None = None
) -> Agent:
    """The trained agent of a run folder, from its newest checkpoint; or one that came with the package.

    Args:
        logdir: the folder, or `pretrained:cheetah_run`.
        planner: values of `PlannerConfig` that it plans with instead of the run's, as `{"candidates": 64}`.

    Raises:
        CheckpointError: the folder holds no run, or no checkpoint that can be read.
        ConfigError: a value that the planner does not know, or that decides what was learned.
    """
    return load_as(logdir, device=device, backend=backend, **planned_with(planner or {}))


def planned_with(planner: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the planner by their dotted names, for `load_as`.

    Raises:
        ConfigError: one of them decides what was learned.
    """
    learned = {"over", "value"} & set(planner)
    if learned:
        raise ConfigError(f"planner.{min(learned)}: a run keeps the one that it was trained with; leave it out")
    return {f"planner.{name}": value for name, value in planner.items()}


def load_as(logdir: str | Path, **overrides: Any) -> Agent:
    """`load` with dotted values of the run's configuration replaced, as `{"planner.noise": "tensors"}`."""
    threads.use()
    config, state = read_run(logdir, **overrides)
    if (
        config.train.precision != "fp32"
        and backends.get(config.backend, backends.device(config.device)).bf16_learner is None
    ):
        # It learned on a processor that had the instruction; acting needs none.
        config = replace(config, {"train.precision": "fp32"})
    with checkpoint.fitting(state):
        agent = agents.make(checkpoint.observation_of(state), state["action_dim"], config, state.get("goals"))
        agent.load_weights(state["agent"])
        agent.at(state["env_steps"])
    return agent
