"""A run on disk and on the screen: one trainer with what it writes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lsp_fast import processes
from lsp_fast.agents import ImaginationAgent
from lsp_fast.config import Config, flat, to_dict
from lsp_fast.errors import EnvironmentFailed, LspFastError
from lsp_fast.evaluate import Evaluator
from lsp_fast.noise import stream_seed
from lsp_fast.reports.figures import learning_curves
from lsp_fast.reports.film import episode
from lsp_fast.reports.open_loop import predicted_frames
from lsp_fast.reports.scores import read_scores
from lsp_fast.storage import checkpoint
from lsp_fast.storage.logger import RunLogger, Silent
from lsp_fast.storage.run_folder import RunFolder
from lsp_fast.training.learner import NotFinite
from lsp_fast.training.pace import FIRST, WARM_UP, Mark, duration_text, seconds_left
from lsp_fast.training.signals import Stop
from lsp_fast.training.tracer import Tracer
from lsp_fast.training.trainer import Trainer

CHANCE_STEPS = 5000
"""Environment steps of a planner that chooses by chance before it is said."""
BAR = "{{l_bar}}{{bar}}| {{n_fmt}}/{{total_fmt}} [{{elapsed}}{left}{{postfix}}]"
"""Of the progress bar: tqdm's own estimate would be made of the prefill's steps."""


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


class Run:
    """What the loop does, each a sentence: learn what is owed, evaluate, log, save, collect.

    Args:
        config: checked.
        folder: claimed.
        trainer, evaluator: of this configuration; only the first of several processes evaluates, logs and draws, and
            the others have no evaluator.
        progress: draw a progress bar on standard error, and say there after the first updates how long it will take.
        profile: write a trace of the first updates that learn behaviour.
        state: the checkpoint that the trainer goes on from, if any.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        trainer: Trainer,
        evaluator: Evaluator | None,
        progress: bool = False,
        profile: bool = False,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.config, self.folder, self.trainer, self.evaluator = config, folder, trainer, evaluator
        identity = {"task": config.task, "method": config.method, "seed": config.seed}
        rows = 0 if state is None else state["metrics_rows"]
        # A run that was over before adds nothing anywhere.
        over = state is not None and state.get("finished", False) and trainer.env_steps >= config.env_steps
        log, values = () if over else config.log, flat(to_dict(config))
        self.logger = (
            RunLogger(folder.path, identity, rows, log, values, lambda text: announce(f"warning: {text}"))
            if processes.leads()
            else Silent()
        )
        self._films = config.train.video_every > 0
        self.resumed_at, self._updates_before = trainer.env_steps, trainer.updates
        self._saved = None if state is None else (trainer.env_steps, trainer.updates)
        # Checkpoints from before they said so: a run's last evaluation stands at its end.
        self._told_finished = state is not None and state.get("finished", self.logger.xs[-1:] == [trainer.env_steps])
        self._started = time.perf_counter()
        self._alarmed = self._chance_said = False
        self._chance_since: int | None = None  # environment steps of the first of all rows since that show chance
        self._bar = tqdm(
            total=config.env_steps,
            initial=trainer.env_steps,
            disable=not progress,
            unit="step",
            desc=f"{config.algorithm} {config.task}",
            dynamic_ncols=True,
            bar_format=BAR.format(left=""),
        )
        self._begun: Mark | None = None  # where the updates begin that tell what one takes
        self._left_said = not progress
        self._step_seconds = 0.0
        skip = max(config.train.pretrain - trainer.updates, 0)
        self._tracer = Tracer(folder.trace, skip) if profile else None
        trainer.on_update = self._updated
        self.may_evaluate = True
        self._stopped = False  # by a signal to any process

    @property
    def env_steps(self) -> int:
        """Environment steps made so far."""
        return self.trainer.env_steps

    @property
    def evaluates(self) -> bool:
        """Whether there are evaluations."""
        return self.config.train.eval_every > 0

    @property
    def at_end(self) -> bool:
        """Whether all steps are made and the last evaluation is still to come: a run may be stopped in its last
        updates."""
        if not self.trainer.schedule.finished(self.env_steps):
            return False
        if self.evaluates:
            left = self.logger.xs[-1:] != [self.env_steps]
        else:
            left = not self._told_finished or self._saved != (self.env_steps, self.trainer.updates)
        return bool(processes.all_gather([left])[0][0])

    @property
    def can_evaluate(self) -> bool:
        """Whether nothing is lost: in an environment that is trained in, too, only where an episode begins."""
        shared = self.evaluator is not None and self.evaluator.shared
        return not shared or bool(self.trainer.collector.driver.is_first.all())

    @property
    def out_of_time(self) -> bool:
        """Whether `max_minutes` of this start are over."""
        limit = self.config.max_minutes
        return limit > 0 and time.perf_counter() - self._started > 60 * limit

    @property
    def updates_per_second(self) -> float:
        """Since this start."""
        return (self.trainer.updates - self._updates_before) / (time.perf_counter() - self._started)

    def learn_owed(self, stop: Stop) -> bool:
        """The updates that come before the next step; False where the run was asked to end."""
        trainer = self.trainer
        while trainer.updates < trainer.schedule.updates_due_first(self.env_steps):
            if self._asked(stop):
                return False
            trainer.learn()
        return not self._asked(stop)

    def _asked(self, stop: Stop) -> bool:
        """Whether the run is to end: all processes do, where one was asked."""
        said = processes.all_gather([stop.asked, self.out_of_time, not self.can_evaluate])
        self._stopped, late, _ = map(any, zip(*said, strict=True))
        self.may_evaluate = not said[0][2]
        return self._stopped or late

    def evaluate(self) -> None:
        """Whole episodes of the policy without exploration; of frames also what the model predicts of them."""
        trainer, seed = self.trainer, stream_seed(self.config.seed, f"evaluate/{self.env_steps}")
        trainer.learner.check_finite()
        score = failure = None
        if self.evaluator is not None:
            try:
                score = self.evaluator.run_agent(trainer.agent, seed)
                if self.evaluator.shared and not trainer.schedule.finished(self.env_steps):
                    trainer.collector.take_back()
            except EnvironmentFailed as error:
                failure = error
        # The others wait for the first one here.
        [reason, *_] = processes.all_gather_object(None if failure is None else str(failure))
        if reason is not None:
            trainer.schedule.evaluate.again()
            raise failure or EnvironmentFailed(reason)
        if score is None:
            return
        row = {"eval/return": score.mean, "eval/return_std": float(np.std(score.returns))}
        before = self.logger.xs[-1] if self.logger.xs else 0
        self.logger.scalars(self.env_steps, row if score.success is None else {**row, "eval/success": score.success})
        if trainer.agent.pixels and isinstance(trainer.agent, ImaginationAgent):
            self.logger.picture(self.env_steps, "open_loop", predicted_frames(trainer.agent, trainer.replay, seed))
        if self._films and trainer.schedule.films(before, self.env_steps):
            self._film(seed)

    def _film(self, seed: int) -> None:
        """One more episode, by noise of its own; where there can be no video that is said once."""
        try:
            self.logger.video(self.env_steps, "episode", episode(self.trainer.agent, seed % 2**31))
        except LspFastError as error:
            self._films = False
            announce(f"warning: the run goes on without videos: {error}")

    def log(self) -> None:
        """One row of metrics: means since the last one, counts, and how exploring episodes went."""
        trainer, collector = self.trainer, self.trainer.collector
        own = trainer.means.pop(), list(collector.returns), list(collector.successes)
        means, returns, successes = zip(*processes.all_gather_object(own), strict=True)
        if not processes.leads():
            return
        # Of maxima the largest.
        row = {name: (max if name.endswith("_max") else fmean)([x[name] for x in means]) for name in means[0]} | {
            "agent_steps": collector.agent_steps,
            "updates": trainer.updates,
            "seconds": time.perf_counter() - self._started,
            "updates_per_second": self.updates_per_second,
        }
        if trainer.agent.device.type == "cuda":
            row["gpu_memory_peak"] = float(torch.cuda.max_memory_allocated(trainer.agent.device))
        for name, recent in (("train/return", returns), ("train/success", successes)):
            if found := [value for values in recent for value in values]:
                row[name] = float(np.mean(found))
        self.logger.scalars(self.env_steps, row)
        if not self._alarmed and _implausible(row, self.config):
            self._alarmed = True
            announce(
                "warning: a value estimate exceeds what the largest reward could ever return; "
                "see docs/metrics.md, value alarm"
            )
        self._watch_gain(row)

    def _watch_gain(self, row: dict[str, float]) -> None:
        """Say once that planning gained nothing in all diagnoses of a while. A gain below 0 is chance, too: one skill
        for all states would have been better."""
        if "planner/gain" not in row:
            return
        if row["planner/gain"] > 2 * row["planner/gain_error"]:
            self._chance_since = None
            return
        if self._chance_since is None:
            self._chance_since = self.env_steps
        if not self._chance_said and self.env_steps - self._chance_since >= CHANCE_STEPS:
            self._chance_said = True
            announce(
                f"warning: for {CHANCE_STEPS} environment steps the planner chose by chance (planner/gain within "
                "two standard errors of 0, or below); see docs/metrics.md, does the planner choose"
            )

    def _updated(self) -> None:
        """After every update: say once how long the run will take."""
        trainer = self.trainer
        if self._tracer is not None:
            self._tracer.step()
        if self._left_said or trainer.schedule.pretraining(trainer.updates - 1):
            return
        if self._begun is None:
            if trainer.updates - self._updates_before >= WARM_UP:
                trainer.learner.check_finite()  # a GPU is waited for
                self._begun = self._mark()
        elif trainer.updates - self._begun.updates >= FIRST:
            trainer.learner.check_finite()
            announce(f"the run ends in about {duration_text(self._seconds_left() or 0)} at this rate")
            self._left_said = True

    def _mark(self) -> Mark:
        return Mark(time.perf_counter() - self._started, self.trainer.updates, self.env_steps)

    def _seconds_left(self) -> float | None:
        """To the end, all that is owed included; None before the first updates have told."""
        if self._begun is None:
            return None
        total, schedule = self.config.env_steps, self.trainer.schedule
        left = schedule.updates_due(max(total, self.env_steps)) - self.trainer.updates
        return seconds_left(self._begun, self._mark(), left, max(total - self.env_steps, 0), self._step_seconds)

    def show(self) -> None:
        """Bring the progress bar up to date. What the cheap steps before learning take says nothing of what is left."""
        made = self.env_steps - self.resumed_at
        if not self.trainer.schedule.learning and made:
            self._step_seconds = (time.perf_counter() - self._started) / made
        left = self._seconds_left()
        self._bar.bar_format = BAR.format(left="" if left is None else f"<{duration_text(left)}")
        scores, returns = self.logger.ys, self.trainer.collector.returns
        shown = {"return": f"{scores[-1]:.0f}"} if scores else {}
        if returns:
            shown["exploring"] = f"{np.mean(returns):.0f}"
        self._bar.set_postfix({**shown, "updates/s": f"{self.updates_per_second:.1f}"}, refresh=False)
        self._bar.update(self.env_steps - self._bar.n)

    def save(self, finished: bool = False) -> None:
        """A checkpoint, unless this very state was saved or loaded just now; one of a run that has come to its end says
        so, as the number of steps does not tell of the last updates and of the last evaluation."""
        trainer = self.trainer
        told = self._told_finished or not finished
        if told and self._saved == (trainer.env_steps, trainer.updates):
            return
        trainer.learner.check_finite()
        self.logger.sync()
        state = {**trainer.state_dict(), "metrics_rows": self.logger.rows, "finished": finished}
        if processes.leads():
            checkpoint.save(self.folder.checkpoints, trainer.env_steps, state)
        processes.barrier()  # the checkpoint is there, whoever goes on
        self._saved, self._told_finished = (trainer.env_steps, trainer.updates), finished

    def collect(self) -> None:
        """One agent step in every environment. Where learning begins there is a checkpoint from before it, so that
        there always is one from before an update that goes wrong."""
        if self.trainer.collect():
            self.save()

    @contextmanager
    def told(self) -> Iterator[None]:
        """Put into words for the user what stops a run, and tell those who keep its numbers that it failed. One that is
        quit at once has no time for that."""
        try:
            with self._in_words():
                yield
        except Exception:
            with suppress(OSError):  # of a full disk it has been told
                self.logger.finish("failed")
            raise

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """What is not finite, and what an environment did; then there is a checkpoint."""
        try:
            with self._bar:
                yield
        except NotFinite as error:
            [*_, newest] = checkpoint.list_checkpoints(self.folder.checkpoints)
            raise LspFastError(
                f"{error} The checkpoint {newest} is from before it. The same command would repeat it; begin anew with "
                "a lower --model.learning-rate, --actor.learning-rate or --optimizer.grad-clip"
            ) from None
        except EnvironmentFailed as error:
            self._saved = None  # the newest checkpoint may hold the episode that failed
            self.save()
            path = checkpoint.path_of(self.folder.checkpoints, self.env_steps)
            named = "" if self.config.task in str(error) else f"{self.config.task}: "
            raise EnvironmentFailed(
                f"{named}{error}. The checkpoint {path} is from before it; the same command goes on from "
                "there, with new episodes"
            ) from error

    def close(self, finished: bool, stop: Stop) -> Result:
        """The last checkpoint, the curve, and what there is now."""
        self.save(finished)
        self.logger.finish("finished" if finished else "stopped")
        if self._tracer is not None:
            self._tracer.close()
        folder, scored = self.folder, bool(self.logger.ys)
        return Result(
            self.env_steps,
            self.trainer.updates,
            self.resumed_at,
            self.logger.ys[-1] if scored else None,
            finished,
            folder.path,
            checkpoint.path_of(folder.checkpoints, self.env_steps),
            folder.scores,
            learning_curves(read_scores([folder.scores]), folder.curve) if scored else None,
            folder.trace if self._tracer is not None and self._tracer.written else None,
            timed_out=not finished and not stop.asked and not self._stopped,
        )


def announce(text: str) -> None:
    """A line on standard error, above the progress bar; of several processes the first one says it."""
    if processes.leads():
        tqdm.write(text, file=sys.stderr)


def _implausible(row: dict[str, float], config: Config) -> bool:
    """|V| above max |R| / (1 - gamma), which no policy can earn."""
    if config.behavior.gamma >= 1 or "behavior/value_abs_max" not in row:
        return False
    return row["behavior/value_abs_max"] > row["behavior/reward_abs_max"] / (1 - config.behavior.gamma)
