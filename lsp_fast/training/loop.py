"""The training loop: learn what is owed, evaluate, log, save, collect (SPEC section 1)."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lsp_fast import machine, processes, threads
from lsp_fast.config import Config, check
from lsp_fast.evaluate import Evaluator, close, make_envs, start_workers
from lsp_fast.storage import made_with
from lsp_fast.storage.run_folder import RunFolder
from lsp_fast.storage.writers import registry
from lsp_fast.training import together
from lsp_fast.training.data import with_whole_data
from lsp_fast.training.preflight import check_resources, disk_errors
from lsp_fast.training.run import Result, Run, announce
from lsp_fast.training.signals import Stop, stop_on_signal
from lsp_fast.training.trainer import Trainer
from lsp_fast.training.transfer import transfer_config, with_whole_source


def train(config: Config, logdir: str | Path, *, progress: bool = True, profile: bool = False) -> Result:
    """Train until `config.env_steps` environment steps, or go on with the run that `logdir` holds.

    Args:
        config: what to train.
        logdir: the run's folder; docs/running.md says what it holds.
        progress: draw a progress bar on standard error, and say there what the run will need.
        profile: also write a trace of the first updates that learn behaviour.

    Raises:
        ConfigError, BackendUnavailable: before anything is written.
        ProcessLost: with `config.processes`, one is gone or does not answer.
        CheckpointError: the folder's checkpoints cannot be read.
        LspFastError: a loss that is not finite, or a disk that is full; the checkpoints before stay.
        EnvironmentFailed: an environment raised, or gave what cannot be learned from. Within training there is then a
            checkpoint from before it.
    """
    config = together.invite(config)
    check(config)
    folder = RunFolder(logdir)
    if config.processes > 1 and not processes.invited():
        return together.launch(config, folder.path, progress=progress, profile=profile)
    config = with_whole_data(with_whole_source(config, folder))
    with ExitStack() as stack:
        if config.processes > 1:
            stack.enter_context(together.joined(config, folder))
            progress, profile = progress and processes.leads(), profile and processes.leads()
        limited = threads.use(together.share(config).threads)
        machine.keep_memory()
        stack.callback(folder.release)
        if processes.leads():
            registry.check(config.log)
            folder.lock()
        config = folder.continued(config)
        # All that can be refused is refused before anything is written.
        state = folder.find(config)
        together.agree(config, state)
        own = together.share(config)
        workers = stack.enter_context(start_workers(own))
        environments = make_envs(own, own.collect.num_envs, workers)
        stack.callback(close, environments)
        evaluator = None
        if processes.leads() and config.train.eval_every:
            evaluator = stack.enter_context(Evaluator(own, own.train.eval_episodes, environments, workers))
        trainer = Trainer(own, folder.replay_of(processes.rank()), state, environments)
        needs = check_resources(own, trainer, folder)
        if progress and (seen := getattr(environments[0], "observes", None)):
            announce(seen)
        if progress:
            announce(needs if limited is None else f"{needs}\n{limited}")
        if trainer.reseeded:
            announce(
                f"note: the checkpoint was written on another kind of device than {trainer.agent.device.type}; its "
                "random numbers begin anew, so that the run does not repeat what it would have done there"
            )
        processes.barrier()  # nothing is written before all have come so far
        with disk_errors(folder):
            if processes.leads():
                folder.claim(config)
                made_with.note(folder.path, trainer.agent.device)
            processes.barrier()  # nor before the folder is the run's
            run = Run(config, folder, trainer, evaluator, progress, profile, state)
            if state is None and (config.transfer.source or config.data):
                # The source may go on and drop the checkpoint that this run begins from, and data may be moved.
                run.save()
            with stop_on_signal() as stop, run.told():
                finished = loop(run, stop)
                return run.close(finished, stop)


def loop(run: Run, stop: Stop) -> bool:
    """To the end, or until the run is asked to stop. Returns whether it is finished."""
    schedule = run.trainer.schedule
    # What is owed comes first: a run that was stopped between two updates goes on between them.
    while run.learn_owed(stop):
        at_end = run.at_end
        if (schedule.learning and run.may_evaluate and schedule.evaluate(run.env_steps)) or (at_end and run.evaluates):
            run.evaluate()
        if schedule.log(run.env_steps) or at_end:
            run.log()
        run.show()
        if schedule.finished(run.env_steps):
            return True
        if schedule.learning and schedule.checkpoint(run.env_steps):
            run.save()
        run.collect()
    return False


def transfer(source: str | Path, logdir: str | Path, task: str, *, progress: bool = True, **overrides: Any) -> Result:
    """Train on `task` from what the run in `source` has learned; the same call goes on with a run that was stopped.

    Arguments and errors are `transfer_config`'s and `train`'s.
    """
    return train(transfer_config(source, logdir, task, **overrides), logdir, progress=progress)
