"""The training loop: collect, learn, evaluate, log, checkpoint (SPEC section 1)."""

from __future__ import annotations

import json
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lsp_fast import checkpoint, envs
from lsp_fast.agents import ImaginationAgent
from lsp_fast.config import Config, check
from lsp_fast.envs.driver import Driver
from lsp_fast.errors import LspFastError
from lsp_fast.evaluate import Evaluator, dimensions
from lsp_fast.logger import Means, RunLogger
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.noise import Noise, stream_seed
from lsp_fast.ops.types import State
from lsp_fast.plotting import learning_curves, read_scores
from lsp_fast.replay import Replay
from lsp_fast.runs import RunFolder


@dataclass(frozen=True)
class Result:
    """What a run left behind."""

    env_steps: int
    updates: int
    resumed_at: int
    """Environment steps that the folder's run had made before; 0 for a new one."""
    score: float | None
    """Mean return of the last evaluation."""
    finished: bool
    """False where the run was interrupted."""
    folder: Path
    checkpoint: Path
    scores: Path
    curve: Path | None


class Due:
    """Says when a cadence in environment steps has come round, once for each time."""

    def __init__(self, every: int) -> None:
        self.every, self.done = every, 0

    def __call__(self, env_steps: int) -> bool:
        """Whether a multiple of `every` was passed since the last time it was asked."""
        due = env_steps // self.every > self.done
        self.done = max(self.done, env_steps // self.every)
        return due


class Trainer:
    """One run: agent, environments, replay and counters.

    Args:
        config: checked.
        state: a checkpoint to go on from.
        replay_folder: where the replay is kept on disk.
    """

    def __init__(self, config: Config, replay_folder: Path, state: dict[str, Any] | None = None) -> None:
        self.config, self.replay_folder = config, replay_folder
        c = config.collect
        environments = [envs.make(config.task, action_repeat=c.action_repeat) for _ in range(c.num_envs)]
        obs_dim, action_dim = dimensions(environments[0])
        self.agent = ImaginationAgent(obs_dim, action_dim, config)
        self.replay = Replay(c.replay_capacity, obs_dim, action_dim, c.num_envs)
        self.sampler = np.random.default_rng(stream_seed(config.seed, "replay"))
        self.explorer = np.random.default_rng(stream_seed(config.seed, "prefill"))
        self.env_steps = self.agent_steps = self.updates = self.prefilled = 0
        self.means, self.returns = Means(), deque[float](maxlen=10)
        t = config.train
        self.due = {"evaluate": Due(t.eval_every), "log": Due(t.log_every), "checkpoint": Due(t.checkpoint_every)}
        # A name decides a stream's numbers: another one here would change every curve in benchmarks/results.
        self.driver = Driver(environments, stream_seed(config.seed, "train/0"), self.replay)
        self.carry = self.agent.initial_carry(
            c.num_envs, explore=True, noise=Noise(stream_seed(config.seed, "collect/0"), self.agent.device)
        )
        if state is None:
            self.driver.reset()
        else:
            self._load(state)

    def state_dict(self) -> dict[str, Any]:
        """A checkpoint's content; also brings the replay on disk up to date."""
        driver = self.driver.state()
        return {
            "agent": self.agent.state_dict(),
            "replay": json.dumps(self.replay.save(self.replay_folder)),
            "driver": {
                "next_episode": driver["next_episode"],
                "actions": [torch.from_numpy(actions) for actions in driver["actions"]],
            },
            "carry": {
                "state": tuple(self.carry.state),
                "action": self.carry.action,
                "skill": self.carry.skill,
                "step": self.carry.step,
                "noise": self.carry.noise.state_dict(),
            },
            "sampler": json.dumps(self.sampler.bit_generator.state),
            "explorer": json.dumps(self.explorer.bit_generator.state),
            "agent_steps": self.agent_steps,
            "updates": self.updates,
            "prefilled": self.prefilled,
            "means": self.means.state_dict(),
            "returns": list(self.returns),
            "due": {name: (due.every, due.done) for name, due in self.due.items()},
            "observation_dim": self.agent.observation_dim,
            "action_dim": self.agent.action_dim,
        }

    def _load(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, in the middle of the episodes that were running."""
        self.agent.load_state_dict(state["agent"])
        self.replay.load(self.replay_folder, json.loads(state["replay"]))
        self.driver.load(state["driver"])
        carry, device = state["carry"], self.agent.device
        self.carry.noise.load_state_dict(carry["noise"])
        self.carry = replace(
            self.carry,
            state=State(*(x.to(device) for x in carry["state"])),
            action=carry["action"].to(device),
            skill=None if carry["skill"] is None else carry["skill"].to(device),
            step=carry["step"],
        )
        self.sampler.bit_generator.state = json.loads(state["sampler"])
        self.explorer.bit_generator.state = json.loads(state["explorer"])
        self.env_steps, self.agent_steps = state["env_steps"], state["agent_steps"]
        self.updates, self.prefilled = state["updates"], state["prefilled"]
        self.means.load_state_dict(state["means"])
        self.returns.extend(state["returns"])
        for name, due in self.due.items():
            every, done = state["due"][name]
            due.done = done if every == due.every else self.env_steps // due.every

    def collect(self) -> None:
        """One agent step in every environment."""
        driver, agent = self.driver, self.agent
        if self.prefilled:
            self.carry = agent.reset(self.carry, driver.is_first)
            actions, self.carry = agent.policy(driver.observations, self.carry)
        else:
            shape = (len(driver.observations), agent.action_dim)
            actions = self.explorer.uniform(-1, 1, shape).astype(np.float32)
        result = driver.step(actions)
        self.env_steps += result.env_steps
        self.agent_steps += len(actions)
        # Learning needs one whole episode, however long that takes.
        if not self.prefilled and self.env_steps >= self.config.collect.prefill and self.replay.num_episodes:
            self.prefilled = self.env_steps
            if self.config.model.normalize_observations:
                mean, std = self.replay.observation_statistics()
                agent.world_model.fit_normalizer(torch.as_tensor(mean), torch.as_tensor(std))
            # From random actions to the policy: it must know the episode that is under way from its beginning on,
            # which it does not, so it starts from the zero state here.
            self.carry = agent.reset(self.carry, np.ones(len(actions), bool))
        self.returns.extend(episode.episode_return for episode in result.finished)

    @property
    def updates_due(self) -> int:
        """Updates owed by now: the pretrain ones, and one per `train_every` environment steps since the prefill."""
        t = self.config.train
        return t.pretrain + (self.env_steps - self.prefilled) // t.train_every if self.prefilled else 0

    def learn(self) -> None:
        """One update. Raises LspFastError where the loss is not finite."""
        t, device = self.config.train, self.agent.device
        arrays = self.replay.sample(self.sampler, t.batch_size, t.batch_length)
        batch = SequenceBatch(*(torch.as_tensor(x).to(device) for x in arrays))
        pretraining = t.pretrain_world_model_only and self.updates < t.pretrain
        diagnose = (self.updates - t.pretrain) % t.health_every == 0
        metrics = self.agent.update(batch, behavior=not pretraining, diagnose=diagnose)
        self.updates += 1
        if device.type == "cpu" and not metrics["world_model/loss"].isfinite():
            raise LspFastError(
                f"the world model's loss became {metrics['world_model/loss'].item()} in update {self.updates} at "
                f"{self.env_steps} environment steps; the last checkpoint is from before it. Lower "
                "--model.learning-rate, or look for values that are not finite in the task's observations."
            )
        self.means.add(metrics)


def train(config: Config, logdir: str | Path, *, progress: bool = True) -> Result:
    """Train until `config.env_steps` environment steps, or go on with the run that `logdir` holds.

    Args:
        config: what to train.
        logdir: the run's folder; docs/running.md says what it holds.
        progress: draw a progress bar on standard error.

    Raises:
        ConfigError, BackendUnavailable: before anything is written.
        CheckpointError: the folder's checkpoints cannot be read.
    """
    check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    folder = RunFolder(logdir)
    # All that can be refused is refused before anything is written.
    state = folder.find(config)
    evaluator = Evaluator(config, config.train.eval_episodes)
    trainer = Trainer(config, folder.replay, state)
    folder.claim(config)
    identity = {"task": config.task, "method": config.algorithm, "seed": config.seed}
    log = RunLogger(folder.path, identity, trainer.env_steps)
    since, updates_before = trainer.env_steps, trainer.updates
    started = time.perf_counter()
    alarmed = finished = False
    saved = (since, updates_before) if state is not None else None

    def save() -> None:
        nonlocal saved
        checkpoint.save(folder.checkpoints, trainer.env_steps, trainer.state_dict())
        saved = trainer.env_steps, trainer.updates

    def score() -> None:
        result = evaluator.run_agent(trainer.agent, stream_seed(config.seed, f"evaluate/{trainer.env_steps}"))
        log.write(trainer.env_steps, {"eval/return": result.mean, "eval/return_std": float(np.std(result.returns))})

    def write() -> dict[str, float]:
        seconds = time.perf_counter() - started
        row = trainer.means.pop() | {
            "agent_steps": trainer.agent_steps,
            "updates": trainer.updates,
            "seconds": seconds,
            "updates_per_second": (trainer.updates - updates_before) / seconds,
        }
        if trainer.returns:
            row["train/return"] = float(np.mean(trainer.returns))
        log.write(trainer.env_steps, row)
        return row

    with stop_on_interrupt() as stop, _bar(config, trainer, progress) as bar:
        while True:
            # What is owed comes first: a run that was stopped between two updates goes on between them.
            while trainer.updates < trainer.updates_due and not stop.asked:
                trainer.learn()
            if stop.asked:
                break
            at, due = trainer.env_steps, trainer.due
            # A run that was stopped within its last updates has its end still to come.
            at_end = at >= config.env_steps and (not log.xs or log.xs[-1] != at)
            if (trainer.prefilled and due["evaluate"](at)) or at_end:
                score()
            if due["log"](at) or at_end:
                row = write()
                if not alarmed and _implausible(row, config):
                    alarmed = True
                    bar.write(
                        "warning: a value estimate exceeds what the largest reward could ever return; "
                        "see docs/running.md, value alarm"
                    )
            rate = (trainer.updates - updates_before) / (time.perf_counter() - started)
            bar.set_postfix(_postfix(log.ys, trainer.returns, rate), refresh=False)
            bar.update(at - bar.n)
            finished = at >= config.env_steps
            if finished:
                break
            if trainer.prefilled and due["checkpoint"](at):
                save()
            trainer.collect()
    # Not where a file of that name lies already: it may be damaged, or from between two updates.
    if saved != (trainer.env_steps, trainer.updates):
        save()
    log.close()
    return Result(
        trainer.env_steps,
        trainer.updates,
        since,
        log.ys[-1] if log.ys else None,
        finished,
        folder.path,
        checkpoint.path_of(folder.checkpoints, trainer.env_steps),
        folder.scores,
        learning_curves(read_scores([folder.scores]), folder.curve) if log.ys else None,
    )


class _Stop:
    asked = False


@contextmanager
def stop_on_interrupt() -> Iterator[_Stop]:
    """Ctrl-C asks the loop to end after the step under way, so that it can checkpoint; a second one quits at once."""
    stop = _Stop()

    def ask(signum: int, frame: Any) -> None:
        stop.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not in the main thread, which alone may set handlers
        yield stop
        return
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _bar(config: Config, trainer: Trainer, progress: bool) -> tqdm:
    return tqdm(
        total=config.env_steps,
        initial=trainer.env_steps,
        disable=not progress,
        unit="step",
        desc=f"{config.algorithm} {config.task}",
        dynamic_ncols=True,
        smoothing=0.05,
    )


def _postfix(scores: Sequence[float], returns: Sequence[float], updates_per_second: float) -> dict[str, str]:
    shown = {"return": f"{scores[-1]:.0f}"} if scores else {}
    if returns:
        shown["exploring"] = f"{np.mean(returns):.0f}"
    return {**shown, "updates/s": f"{updates_per_second:.1f}"}


def _implausible(row: dict[str, float], config: Config) -> bool:
    """|V| above max |R| / (1 - gamma), which no policy can earn."""
    if config.behavior.gamma >= 1 or "behavior/value_abs_max" not in row:
        return False
    return row["behavior/value_abs_max"] > row["behavior/reward_abs_max"] / (1 - config.behavior.gamma)
