"""The training loop: collect, learn, evaluate, log, checkpoint (SPEC section 1)."""

from __future__ import annotations

import errno
import functools
import json
import math
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lsp_fast import agents, machine
from lsp_fast.config import Config, check
from lsp_fast.envs.goals import goal_entries
from lsp_fast.errors import ConfigError, LspFastError
from lsp_fast.evaluate import Evaluator, dimensions, make_env
from lsp_fast.experience import relabel
from lsp_fast.experience.driver import Driver
from lsp_fast.experience.replay import Batch, Replay
from lsp_fast.models.world_model import SequenceBatch
from lsp_fast.noise import Noise, stream_seed
from lsp_fast.reports.plot import learning_curves, read_scores
from lsp_fast.storage import checkpoint, resources
from lsp_fast.storage.logger import Means, RunLogger
from lsp_fast.storage.run_folder import RunFolder


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
    trace: Path | None = None
    timed_out: bool = False
    """It was not interrupted, `max_minutes` were over."""


SEQUENCES, SHOWN, SEEN = 4, 20, 5
"""Of the pictures of what the model predicts: sequences, frames of each, and how many of them it has seen."""


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
        environments = [make_env(config) for _ in range(c.num_envs)]
        observation, action_dim = dimensions(environments[0])
        longest = getattr(environments[0], "max_env_steps", None)
        if longest is not None and c.replay_capacity < (rows := math.ceil(longest / c.action_repeat) + 1):
            raise ConfigError(
                f"collect.replay_capacity = {c.replay_capacity}: an episode of {config.task} takes {rows} rows, and "
                "learning needs a whole one"
            )
        self.goals = goal_entries(environments[0])
        self.agent = agents.make(observation, action_dim, config, self.goals)
        # What the agent wants to be kept; else what relabelling for another task would need.
        extras = self.agent.extras_dim or relabel.extras_dim(config.task, c.action_repeat)
        dtype = environments[0].observation_space.dtype or np.float32
        self.replay = Replay(c.replay_capacity, observation, action_dim, c.num_envs, dtype=dtype, extras_dim=extras)
        self.sampler = np.random.default_rng(stream_seed(config.seed, "replay"))
        self.explorer = np.random.default_rng(stream_seed(config.seed, "prefill"))
        self.env_steps = self.agent_steps = self.updates = self.prefilled = 0
        self.means, self.returns = Means(), deque[float](maxlen=10)
        self.successes = deque[float](maxlen=10)
        self.finite = torch.ones((), dtype=torch.bool, device=self.agent.device)
        self.upload = Upload(self.agent.device)
        self.on_update: Callable[[], object] | None = None
        t = config.train
        self.due = {"evaluate": Due(t.eval_every), "log": Due(t.log_every), "checkpoint": Due(t.checkpoint_every)}
        # A name decides a stream's numbers: another one here would change every curve in benchmarks/results.
        self.driver = Driver(
            environments,
            stream_seed(config.seed, "train/0"),
            self.replay,
            info_extras=functools.partial(relabel.extras, action_repeat=c.action_repeat)
            if extras and not self.agent.extras_dim
            else None,
            extras_dim=self.agent.extras_dim,
        )
        self.carry = self.agent.initial_carry(
            c.num_envs, explore=True, noise=Noise(stream_seed(config.seed, "collect/0"), self.agent.device)
        )
        if state is None:
            if config.transfer.source:
                self._take_over()
            self.driver.reset()
        else:
            with checkpoint.fitting(state):
                self._load(state)

    def _take_over(self) -> None:
        """Weights, and perhaps experience, of another run (SPEC section 5, transfer). Optimisers start afresh.

        Raises:
            CheckpointError: that run or its checkpoint is gone.
            ConfigError: its spaces or its experience do not fit this task.
        """
        t = self.config.transfer
        source = RunFolder(t.source)
        before = source.read_config()
        state = checkpoint.load(checkpoint.path_of(source.checkpoints, t.source_env_steps))
        agent, there = self.agent, (checkpoint.observation_of(state), state["action_dim"])
        if there != (agent.observation, agent.action_dim):
            raise ConfigError(
                f"{before.task} has observations and actions of {there[0]} and {there[1]} numbers, {self.config.task} "
                f"of {agent.observation} and {agent.action_dim}: nothing can be taken over"
            )
        with checkpoint.fitting(state):
            theirs, ours = state["agent"]["modules"], agent.modules.state_dict()
            if other := [k for k in ours.keys() | theirs.keys()
                         if k not in ours or k not in theirs or ours[k].shape != theirs[k].shape]:  # fmt: skip
                raise ConfigError(
                    f"the source's networks are not this run's ({min(other)}): what decides them, such as skill.length "
                    "of 10 states or less, skill.mi or value.skill, must be as it was there"
                )
            agent.modules.load_state_dict(theirs)
        if t.relabel:
            repeat = self.config.collect.action_repeat
            rewards = relabel.relabeller(before.task, self.config.task, repeat)
            if before.collect.action_repeat != repeat:
                raise ConfigError(f"collect.action_repeat = {repeat}: the source's experience has another one")
            self.replay.load(source.replay, json.loads(state["replay"]), borrow=True)
            self.replay.relabel(rewards)

    def state_dict(self) -> dict[str, Any]:
        """A checkpoint's content; also brings the replay on disk up to date."""
        driver = self.driver.state()
        return {
            "agent": self.agent.state_dict(),
            "replay": json.dumps(self.replay.save(self.replay_folder)),
            "driver": {
                "next_episode": driver["next_episode"],
                "actions": [torch.from_numpy(actions) for actions in driver["actions"]],
                "extras": [torch.from_numpy(rows) for rows in driver["extras"]],
            },
            "carry": self.carry.state_dict(),
            "sampler": json.dumps(self.sampler.bit_generator.state),
            "explorer": json.dumps(self.explorer.bit_generator.state),
            "agent_steps": self.agent_steps,
            "updates": self.updates,
            "prefilled": self.prefilled,
            "means": self.means.state_dict(),
            "returns": list(self.returns),
            "successes": list(self.successes),
            "due": {name: (due.every, due.done) for name, due in self.due.items()},
            "observation": self.agent.observation,
            "action_dim": self.agent.action_dim,
            "goals": self.goals,
        }

    def _load(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, in the middle of the episodes that were running."""
        self.agent.load_state_dict(state["agent"])
        self.replay.load(self.replay_folder, json.loads(state["replay"]))
        # Runs from before there was one word for them called extras `beside`.
        self.driver.load({"extras": state["driver"].get("beside"), **state["driver"]})
        self.carry = self.carry.loaded(state["carry"])
        self.sampler.bit_generator.state = json.loads(state["sampler"])
        self.explorer.bit_generator.state = json.loads(state["explorer"])
        self.env_steps, self.agent_steps = state["env_steps"], state["agent_steps"]
        self.updates, self.prefilled = state["updates"], state["prefilled"]
        self.means.load_state_dict(state["means"])
        self.returns.extend(state["returns"])
        self.successes.extend(state.get("successes", []))
        for name, due in self.due.items():
            every, done = state["due"][name]
            due.done = done if every == due.every else self.env_steps // due.every

    def collect(self) -> None:
        """One agent step in every environment; with `train.overlap` what is to be learned is learned meanwhile."""
        driver, agent, transfer = self.driver, self.agent, self.config.transfer
        # A policy that was taken over fills the replay itself.
        if self.prefilled or transfer.source:
            self.carry = agent.reset(self.carry, driver.is_first)
            actions, self.carry = agent.policy(driver.observations, self.carry)
            extras = agent.extras(self.carry)
        else:
            extras = None
            shape = (len(driver.observations), agent.action_dim)
            actions = self.explorer.uniform(-1, 1, shape).astype(np.float32)
        if not np.isfinite(actions).all():
            # On a GPU nobody has looked yet; what went wrong says more than an action that is not a number.
            self.check_finite()
        meanwhile = self.learn_due if self.prefilled and self.config.train.overlap else None
        result = driver.step(actions, meanwhile, extras)
        self.env_steps += result.env_steps
        self.agent_steps += len(actions)
        # Learning needs one whole episode, however long that takes.
        enough = transfer.relabel or self.env_steps >= self.config.collect.prefill
        if not self.prefilled and enough and self.replay.num_episodes:
            self.prefilled = self.env_steps
            # What was taken over knows observations, and goals, as its own scales show them.
            if not transfer.source:
                agent.fit(self.replay)
            # From random actions to the policy: it must know the episode that is under way from its beginning on,
            # which it does not, so it starts from the zero state here.
            # A policy that was taken over has been there all the time.
            if not transfer.source:
                self.carry = agent.reset(self.carry, np.ones(len(actions), bool))
        self.returns.extend(episode.episode_return for episode in result.finished)
        self.successes.extend(float(episode.success) for episode in result.finished if episode.success is not None)

    @property
    def updates_due(self) -> int:
        """Updates owed by now: the pretrain ones, and one per `train_every` environment steps since the prefill."""
        t = self.config.train
        return t.pretrain + (self.env_steps - self.prefilled) // t.train_every if self.prefilled else 0

    @property
    def updates_due_first(self) -> int:
        """Updates owed before the next step: all, or with `train.overlap` those that precede all learning."""
        return min(self.updates_due, self.config.train.pretrain) if self.config.train.overlap else self.updates_due

    def learn_due(self) -> None:
        """All updates that are owed."""
        while self.updates < self.updates_due:
            self.learn()

    def learn(self) -> None:
        """One update. Raises NotFinite where a loss or a gradient is not."""
        t, device = self.config.train, self.agent.device
        before = self.sampler.bit_generator.state
        arrays = self.agent.sample(self.replay, self.sampler)
        batch = self.upload(arrays)
        pretraining = t.pretrain_world_model_only and self.updates < t.pretrain
        diagnose = (self.updates - t.pretrain) % t.health_every == 0
        metrics = self.agent.update(batch, behavior=not pretraining, diagnose=diagnose)
        self.updates += 1
        self.means.add(metrics)
        watched = {k: v for k, v in metrics.items() if k.endswith(("loss", "grad_norm"))}
        self.finite = self.finite & torch.stack(list(watched.values())).isfinite().all()
        if device.type == "cpu" and not self.finite:
            name, value = next((k, v.item()) for k, v in watched.items() if not v.isfinite())
            raise NotFinite(
                f"{name} became {value} in update {self.updates} at {self.env_steps} environment steps. "
                f"{self._locate(before, arrays)}"
            )
        if self.on_update is not None:
            self.on_update()

    def predicted_frames(self, seed: int) -> np.ndarray:
        """Sequences of the replay beside what the model makes of them, uint8 [64 * 3 B, 64 L, 3].

        Of each sequence: the truth, the model (of the first SEEN frames reconstructions, then predictions), and their
        difference. Randomness comes from `seed` alone.
        """
        length, agent = max(2, min(self.config.train.batch_length, SHOWN)), self.agent
        assert isinstance(agent, agents.ImaginationAgent)
        arrays = self.replay.sample(np.random.default_rng(seed), SEQUENCES, length)
        noise = Noise(seed, agent.device).normal("open_loop", length, SEQUENCES, self.config.model.stoch)
        batch = SequenceBatch(*self.upload(arrays))
        predicted = (
            agent.world_model.open_loop(batch, noise, min(SEEN, length - 1)).transpose(0, 1) + 0.5
        )  # [B, L, ...]
        truth = batch.observation.float() / 255
        rows = torch.stack([truth, predicted.clamp(0, 1), ((predicted - truth + 1) / 2).clamp(0, 1)], 1)
        side = truth.shape[2]
        picture = rows.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * length, 3)
        return (picture * 255).round().to(torch.uint8).cpu().numpy()

    def check_finite(self) -> None:
        """Raise NotFinite where a loss or gradient since the start was not: on a GPU `learn` does not wait to see."""
        if not self.finite:
            raise NotFinite(f"a loss or gradient became NaN or infinite within the first {self.updates} updates.")

    def _locate(self, sampler_state: Any, arrays: Sequence[np.ndarray]) -> str:
        """Where in the replay the windows of a batch lie, and what in them is not finite."""
        if not isinstance(arrays, Batch):
            return "The replay takes finite rows only."
        rng = np.random.default_rng()
        rng.bit_generator.state = sampler_state
        episodes, offsets = self.replay.draw(rng, *arrays.reward.shape)
        for field, array in zip(arrays._fields, arrays, strict=True):
            if len(bad := np.argwhere(~np.isfinite(array))):
                b, row = bad[0][:2]
                return (
                    f"Its batch holds {array[tuple(bad[0])]} as {field} of sequence {b}, row {row}: row "
                    f"{offsets[b] + row} of episode {episodes[b]} of the replay (0 is the oldest)."
                )
        windows = ", ".join(f"{e}:{o}" for e, o in zip(episodes, offsets, strict=True))
        return f"Its batch is finite; its {arrays.reward.shape[1]} rows each begin at (episode:row) {windows}."


class Upload:
    """Copies arrays to the device; to a GPU through pinned memory on a stream of its own, beside what is computed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[torch.Tensor]:
        tensors = [torch.as_tensor(x) for x in arrays]
        if self.stream is None:
            return [x.to(self.device) for x in tensors]
        with torch.cuda.stream(self.stream):
            copies = [x.pin_memory().to(self.device, non_blocking=True) for x in tensors]
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.stream)
        for x in copies:
            x.record_stream(current)  # else its memory would be taken for the next copy while it is read
        return copies


class NotFinite(LspFastError):
    """A loss or gradient is NaN or infinite."""


def train(config: Config, logdir: str | Path, *, progress: bool = True, profile: bool = False) -> Result:
    """Train until `config.env_steps` environment steps, or go on with the run that `logdir` holds.

    Args:
        config: what to train.
        logdir: the run's folder; docs/running.md says what it holds.
        progress: draw a progress bar on standard error, and say there what the run will need.
        profile: also write a trace of the first updates that learn behaviour.

    Raises:
        ConfigError, BackendUnavailable: before anything is written.
        CheckpointError: the folder's checkpoints cannot be read.
        LspFastError: a loss that is not finite, or a disk that is full; the checkpoints before stay.
    """
    check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    folder = RunFolder(logdir)
    try:
        folder.lock()
        # All that can be refused is refused before anything is written.
        state = folder.find(config)
        evaluator = Evaluator(config, config.train.eval_episodes)
        trainer = Trainer(config, folder.replay, state)
        needs = _check_resources(config, trainer, folder)
        if progress:
            tqdm.write(needs, file=sys.stderr)
        with _disk_errors(folder):
            folder.claim(config)
            return _Run(config, folder, trainer, evaluator, progress, profile, state).loop()
    finally:
        folder.release()


class _Run:
    """The loop over one trainer, with what it writes."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        trainer: Trainer,
        evaluator: Evaluator,
        progress: bool,
        profile: bool,
        state: dict[str, Any] | None,
    ) -> None:
        self.config, self.folder, self.trainer, self.evaluator = config, folder, trainer, evaluator
        identity = {"task": config.task, "method": config.method, "seed": config.seed}
        self.log = RunLogger(folder.path, identity, 0 if state is None else state["metrics_rows"])
        self.since, self.updates_before = trainer.env_steps, trainer.updates
        self.saved = (self.since, self.updates_before) if state is not None else None
        self.started = time.perf_counter()
        self.alarmed = False
        self.bar = _bar(config, trainer, progress)
        pretrain = max(config.train.pretrain - trainer.updates, 0)
        self.tracer = Tracer(folder.trace, skip=pretrain) if profile else None
        trainer.on_update = self.tracer.step if self.tracer is not None else None

    def loop(self) -> Result:
        """Learn what is owed, evaluate, log, checkpoint, collect; until the end or a signal."""
        config, trainer, log, due = self.config, self.trainer, self.log, self.trainer.due
        finished = False
        if self.saved is None and config.transfer.source:
            # The source may go on and drop the checkpoint that this run begins from.
            self.save()
        with stop_on_signal() as stop, self.bar as bar:
            while True:
                # What is owed comes first: a run that was stopped between two updates goes on between them.
                while trainer.updates < trainer.updates_due_first and not stop.asked:
                    if self.out_of_time:
                        break
                    self.caught(trainer.learn)
                if stop.asked or self.out_of_time:
                    break
                at = trainer.env_steps
                # A run that was stopped within its last updates has its end still to come.
                at_end = at >= config.env_steps and (not log.xs or log.xs[-1] != at)
                if (trainer.prefilled and due["evaluate"](at)) or at_end:
                    self.score()
                if due["log"](at) or at_end:
                    self.write()
                bar.set_postfix(_postfix(log.ys, trainer.returns, self.updates_per_second), refresh=False)
                bar.update(at - bar.n)
                finished = at >= config.env_steps
                if finished:
                    break
                if trainer.prefilled and due["checkpoint"](at):
                    self.save()
                prefilled = trainer.prefilled
                self.caught(trainer.collect)
                if not prefilled and trainer.prefilled:
                    self.save()  # there is always a checkpoint from before an update that goes wrong
        # Not where a file of that name lies already: it may be damaged, or from between two updates.
        if self.saved != (trainer.env_steps, trainer.updates):
            self.save()
        log.close()
        if self.tracer is not None:
            self.tracer.close()
        return Result(
            trainer.env_steps,
            trainer.updates,
            self.since,
            log.ys[-1] if log.ys else None,
            finished,
            self.folder.path,
            checkpoint.path_of(self.folder.checkpoints, trainer.env_steps),
            self.folder.scores,
            learning_curves(read_scores([self.folder.scores]), self.folder.curve) if log.ys else None,
            self.folder.trace if self.tracer is not None and self.tracer.written else None,
            timed_out=not finished and not stop.asked,
        )

    @property
    def updates_per_second(self) -> float:
        """Since this start."""
        return (self.trainer.updates - self.updates_before) / (time.perf_counter() - self.started)

    @property
    def out_of_time(self) -> bool:
        """Whether `max_minutes` of this start are over."""
        limit = self.config.max_minutes
        return limit > 0 and time.perf_counter() - self.started > 60 * limit

    def caught(self, step: Callable[[], object]) -> None:
        """A step of the trainer, its error put into words for the user."""
        try:
            step()
        except NotFinite as error:
            raise self._stopped(error) from None

    def _stopped(self, error: NotFinite) -> LspFastError:
        [*_, newest] = checkpoint.list_checkpoints(self.folder.checkpoints)
        return LspFastError(
            f"{error} The checkpoint {newest} is from before it. The same command would repeat it; begin anew with a "
            "lower --model.learning-rate, --actor.learning-rate or --optimizer.grad-clip"
        )

    def save(self) -> None:
        self.caught(self.trainer.check_finite)
        self.log.sync()
        state = {**self.trainer.state_dict(), "metrics_rows": self.log.rows}
        checkpoint.save(self.folder.checkpoints, self.trainer.env_steps, state)
        self.saved = self.trainer.env_steps, self.trainer.updates

    def score(self) -> None:
        trainer, seed = self.trainer, stream_seed(self.config.seed, f"evaluate/{self.trainer.env_steps}")
        self.caught(trainer.check_finite)
        result = self.evaluator.run_agent(trainer.agent, seed)
        row = {"eval/return": result.mean, "eval/return_std": float(np.std(result.returns))}
        self.log.write(trainer.env_steps, row if result.success is None else {**row, "eval/success": result.success})
        if trainer.agent.pixels:
            self.log.picture(trainer.env_steps, "open_loop", trainer.predicted_frames(seed))

    def write(self) -> None:
        trainer = self.trainer
        row = trainer.means.pop() | {
            "agent_steps": trainer.agent_steps,
            "updates": trainer.updates,
            "seconds": time.perf_counter() - self.started,
            "updates_per_second": self.updates_per_second,
        }
        if trainer.agent.device.type == "cuda":
            row["gpu_memory_peak"] = float(torch.cuda.max_memory_allocated(trainer.agent.device))
        if trainer.returns:
            row["train/return"] = float(np.mean(trainer.returns))
        if trainer.successes:
            row["train/success"] = float(np.mean(trainer.successes))
        self.log.write(trainer.env_steps, row)
        if not self.alarmed and _implausible(row, self.config):
            self.alarmed = True
            self.bar.write(
                "warning: a value estimate exceeds what the largest reward could ever return; "
                "see docs/metrics.md, value alarm"
            )


class Tracer:
    """A torch.profiler trace of a few updates and what lies between them, for Perfetto or chrome://tracing.

    Args:
        path: of the JSON file.
        skip: updates before the first that may be traced; one more warms up.
    """

    UPDATES = 3

    def __init__(self, path: Path, skip: int) -> None:
        activity = torch.profiler.ProfilerActivity
        self.path, self.written = path, False
        self._profile = torch.profiler.profile(
            activities=[activity.CPU, *([activity.CUDA] if torch.cuda.is_available() else [])],
            schedule=torch.profiler.schedule(wait=1, warmup=1, active=self.UPDATES, repeat=1, skip_first=skip),
            on_trace_ready=self._write,
        )
        self._profile.start()

    def step(self) -> None:
        """An update is done."""
        if not self.written:
            self._profile.step()

    def close(self) -> None:
        """The run has ended, with or without enough updates."""
        if not self.written:
            self._profile.stop()

    def _write(self, profile: torch.profiler.profile) -> None:
        # A run that ends early hands over what there is.
        self.written = True
        profile.export_chrome_trace(str(self.path))


def _check_resources(config: Config, trainer: Trainer, folder: RunFolder) -> str:
    """What the run needs, in a line.

    Raises:
        ConfigError: the disk has no room for it.
    """
    agent = trainer.agent
    parameters = sum(parameter.numel() for parameter in agent.modules.parameters())
    on_gpu = agent.device.type == "cuda"
    needs = resources.estimate(
        config,
        agent.backend.name,
        math.prod(agent.observation_shape),
        agent.action_dim,
        parameters,
        on_gpu,
        extras=trainer.replay.extras_dim,
        held=0 if trainer.env_steps else trainer.replay.num_rows,
    )
    memory, disk = machine.memory_available(), machine.disk_free(folder.path)
    to_come = 0 if trainer.env_steps >= config.env_steps else needs.disk - machine.folder_size(folder.path)
    if to_come > disk:
        raise ConfigError(
            f"{folder.path}: the run will need {machine.size_text(to_come)} of disk, and "
            f"{machine.size_text(disk)} are free; free some, choose another --logdir, or lower --env-steps"
        )
    free = "" if memory is None else f"{machine.size_text(memory)} of memory and "
    line = f"needs {needs} ({free}{machine.size_text(disk)} of disk free)"
    if needs.gpu is not None and needs.gpu > (left := torch.cuda.mem_get_info(agent.device)[0]):
        line += (
            f"\nwarning: the GPU has {machine.size_text(left)} free, which may not suffice; lower "
            "--behavior.plan-states or --train.batch-size"
        )
    if memory is not None and needs.memory - machine.process_memory() > memory:
        line += "\nwarning: that memory may not suffice; lower --collect.replay-capacity or --behavior.plan-states"
    return line


@contextmanager
def _disk_errors(folder: RunFolder) -> Iterator[None]:
    """Say of a disk that is full or gone what was kept and how to go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        kept = checkpoint.list_checkpoints(folder.checkpoints) if folder.checkpoints.is_dir() else []
        what = f"the checkpoint {kept[-1]} is whole" if kept else "there is no checkpoint yet"
        raise LspFastError(
            f"cannot write to {folder.path}: {os.strerror(error.errno)}; {what}. Make room, or the folder writable, "
            "and the same command goes on from there"
        ) from error


DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG}


class _Stop:
    asked = False


@contextmanager
def stop_on_signal() -> Iterator[_Stop]:
    """Ctrl-C (or SIGTERM) asks the loop to end after the step under way, so that it can checkpoint; a second one quits
    at once."""
    stop = _Stop()
    signals = signal.SIGINT, signal.SIGTERM

    def ask(signum: int, frame: Any) -> None:
        stop.asked = True
        for number in signals:
            signal.signal(number, signal.default_int_handler)

    try:
        before = [signal.signal(number, ask) for number in signals]
    except ValueError:  # not in the main thread, which alone may set handlers
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


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
