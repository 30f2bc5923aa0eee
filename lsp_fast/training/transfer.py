"""A run that goes on from another task's (SPEC section 5, transfer)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lsp_fast.agents import Agent
from lsp_fast.config import Config, check, replace
from lsp_fast.errors import CheckpointError, ConfigError
from lsp_fast.experience import relabel
from lsp_fast.experience.replay import Replay
from lsp_fast.storage import checkpoint, sources
from lsp_fast.storage.run_folder import RunFolder


def transfer_config(source: str | Path, logdir: str | Path, task: str, **overrides: Any) -> Config:
    """The configuration of a run on `task` that takes over what the run in `source` has learned.

    Args:
        source: a run's folder, in which nothing is changed; or `pretrained:NAME`.
        logdir: of the new run; where it has begun already, the checkpoint that it began from stays.
        task: with observations and actions of the source's sizes.
        overrides: values by their dotted names, the dot written as two underscores; all others are the source's.

    Raises:
        CheckpointError: there is no run or no checkpoint in `source`.
        ConfigError: a value that does not fit.
    """
    new = RunFolder(logdir)
    if (whole := sources.whole(source)) == str(new.path.resolve()):
        raise ConfigError(f"{source} is the source itself; choose another --logdir")
    given = {"task": task, **{k.replace("__", "."): v for k, v in overrides.items()}}
    begun = new.read_config() if new.config.exists() else None
    if begun is not None and _took_over(begun, whole, new):
        # As it was begun, whatever has become of the source since.
        config = replace(begun, given)
    else:
        config = sources.read_config(source)
        # The newest that can be read, as a resumed run would take it.
        state = sources.read_state(source)
        # What the source itself began from, and how, is its own matter.
        fresh = {"transfer.freeze_policy": False, "transfer.relabel": False, "data": "", "offline": False}
        taken = {"transfer.source": whole, "transfer.source_env_steps": state["env_steps"]}
        predicts = config.predicts_terminations
        config = replace(config, {**fresh, **taken, **given})
        if "model.discount_head" not in given and config.predicts_terminations != predicts:
            # `auto` would mean something else for this task than for the source's, whose networks are taken over.
            config = replace(config, {"model.discount_head": "on" if predicts else "off"})
    check(config)
    return config


def with_whole_source(config: Config, folder: RunFolder) -> Config:
    """The configuration with its `transfer.source` as a whole path, which every other folder finds again; where the run
    has begun from that one already, as it was written there.

    Raises:
        ConfigError: the run began from a path that leads elsewhere from here.
    """
    if not config.transfer.source:
        return config
    begun = folder.read_config() if folder.config.exists() else None
    source = sources.whole(config.transfer.source)
    known = begun is not None and _took_over(begun, source, folder)
    return replace(config, {"transfer.source": begun.transfer.source if begun and known else source})


def _took_over(begun: Config, source: str, folder: RunFolder) -> bool:
    """Whether the run in `folder`, which has begun, took over that source."""
    if not (there := begun.transfer.source):
        return False
    if (found := sources.whole(there)) == source:
        return True
    if found != there:  # older versions stored it as it was typed
        raise ConfigError(
            f"{folder.path} began from {there}, a path from the folder that its command was called in; from here that "
            f"is {found} and not {source}: call the command there"
        )
    return False


def take_over(config: Config, agent: Agent, replay: Replay) -> None:
    """Weights, and perhaps experience, of another run (SPEC section 5, transfer). Optimisers start afresh.

    Raises:
        CheckpointError: that run or its checkpoint is gone.
        ConfigError: its spaces or its experience do not fit this task.
    """
    t = config.transfer
    try:
        before = sources.read_config(t.source)
        state = sources.read_state(t.source, t.source_env_steps)
    except CheckpointError as error:
        raise CheckpointError(
            f"transfer.source: {error}; nothing can be taken over. lsp-fast transfer takes the newest that a run has, "
            "into a new --logdir"
        ) from error
    there = checkpoint.observation_of(state), state["action_dim"]
    if there != (agent.observation, agent.action_dim):
        raise ConfigError(
            f"{before.task} has observations and actions of {there[0]} and {there[1]} numbers, {config.task} "
            f"of {agent.observation} and {agent.action_dim}: nothing can be taken over"
        )
    if "symlog" in (known := (before.model.normaliser, config.model.normaliser)) and known[0] != known[1]:
        raise ConfigError(
            f"model.normaliser = {known[1]!r}: the source's networks know observations by {known[0]!r}; leave it so"
        )
    if (scale := before.skill.input_scale) != config.skill.input_scale and config.skill_dim:
        raise ConfigError(
            f"skill.input_scale = {config.skill.input_scale}: the source's policy knows skills {scale} times as large "
            "as they are; leave it so"
        )
    with checkpoint.fitting(state):
        theirs, ours = state["agent"]["modules"], agent.modules.state_dict()
        if other := [k for k in ours.keys() | theirs.keys()
                     if k not in ours or k not in theirs or ours[k].shape != theirs[k].shape]:  # fmt: skip
            raise ConfigError(
                f"the source's networks are not this run's ({min(other)}): what decides them, such as skill.length "
                "of 10 states or less, skill.mi, skill.beta_kind, predictor.normalise, value.skill, value.slow, "
                "value.clip_targets or model.norm, must be as it was there"
            )
        agent.modules.load_state_dict(theirs)
    if t.relabel:
        if before.processes > 1:
            raise ConfigError(
                f"transfer.relabel = True: the source's experience lies in {before.processes} parts, one for each of "
                "its processes; transfer without it"
            )
        repeat = config.collect.action_repeat
        rewards = relabel.relabeller(before.task, config.task, repeat)
        if before.collect.action_repeat != repeat:
            raise ConfigError(f"collect.action_repeat = {repeat}: the source's experience has another one")
        replay.load(RunFolder(t.source).replay, json.loads(state["replay"]), borrow=True)
        replay.relabel(rewards)
