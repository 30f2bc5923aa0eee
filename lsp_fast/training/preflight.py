"""What is refused or said before a run writes anything, and a disk that fails it later."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lsp_fast import machine, processes
from lsp_fast.config import Config
from lsp_fast.errors import ConfigError, LspFastError
from lsp_fast.learning.compiled import check_compiler
from lsp_fast.storage import checkpoint, resources
from lsp_fast.storage.run_folder import RunFolder
from lsp_fast.training.trainer import Trainer


def check_resources(config: Config, trainer: Trainer, folder: RunFolder) -> str:
    """What the run needs, in a line.

    Raises:
        ConfigError: the disk has no room for it.
        BackendUnavailable: losses are to be compiled, and nothing here can.
    """
    agent = trainer.agent
    if config.train.compile:
        check_compiler(agent.device)
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
        held=trainer.held,
    )
    memory, disk = machine.memory_available(), machine.disk_free(folder.path)
    to_come = 0 if trainer.env_steps >= config.env_steps else needs.disk - machine.folder_size(folder.path)
    if to_come > disk:
        raise ConfigError(
            f"{folder.path}: the run will need {machine.size_text(to_come)} of disk, and "
            f"{machine.size_text(disk)} are free; free some, choose another --logdir, or lower --env-steps"
        )
    free = "" if memory is None else f"{machine.size_text(memory)} of memory and "
    each = f" in each of {count} processes" if (count := processes.count()) > 1 else ""
    line = f"needs {needs}{each} ({free}{machine.size_text(disk)} of disk free)"
    if needs.gpu is not None and needs.gpu > (left := torch.cuda.mem_get_info(agent.device)[0]):
        line += (
            f"\nwarning: the GPU has {machine.size_text(left)} free, which may not suffice; lower "
            "--behavior.plan-states or --train.batch-size"
        )
    if memory is not None and processes.local()[1] * (needs.memory - machine.process_memory()) > memory:
        line += "\nwarning: that memory may not suffice; lower --collect.replay-capacity or --behavior.plan-states"
    return line


@contextmanager
def disk_errors(folder: RunFolder) -> Iterator[None]:
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
