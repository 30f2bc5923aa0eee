"""Runs and recorded data: a run that begins with some, and a run's own replay as it goes to others (docs/data.md)."""

from __future__ import annotations

import dataclasses
import functools
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lsp_fast import agents, processes
from lsp_fast.agents import Agent
from lsp_fast.config import Config, replace
from lsp_fast.errors import CheckpointError, ConfigError
from lsp_fast.experience import relabel
from lsp_fast.experience.recorded import exchange, folder
from lsp_fast.experience.recorded.form import About, Asked, Notes, Stored, environment, target
from lsp_fast.experience.recorded.rows import Shapes
from lsp_fast.experience.replay import Replay
from lsp_fast.experience.replay_files import Rows
from lsp_fast.observed import Observed
from lsp_fast.storage import checkpoint
from lsp_fast.storage.run_folder import RunFolder


def with_whole_data(config: Config) -> Config:
    """The configuration with its `data` as a whole path, which every other folder finds again."""
    return replace(config, {"data": str(Path(config.data).expanduser().resolve())}) if config.data else config


def begin_with(config: Config, agent: Agent, replay: Replay) -> int:
    """Fill an empty replay with the run's `data`; of several processes each takes every so many-th episode.

    Numbers that the replay keeps beside a row are the data's own where they are of the same kind. Otherwise they are
    zeros, which tell HIRO that no goal was given, or `relabel.UNTOLD`.

    Returns:
        rows that the replay holds now.

    Raises:
        ConfigError: the data is of another task or action repeat, has other shapes, or does not fit into the replay.
        LspFastError: it cannot be read.
    """
    path = Path(config.data)
    if folder.holds(path):
        stored = folder.read_folder(path)
        about, episodes = stored.about, stored.episodes()
        shapes = Shapes(stored.observation, stored.action_dim, stored.extras_dim)
    else:
        asked = Asked(target=None if agent.pixels else target(config.task))
        converter, about = exchange.converted(path, exchange.open_recording(path, asked), asked, Notes())
        shapes, episodes = converter.peek(), iter(converter)
    _check(config, agent, about, shapes)
    # Several processes each take their share.
    count, rank, found = processes.count(), processes.rank(), 0
    kept = about.extras == extras_kind(config) and shapes.extras_dim == replay.extras_dim
    for found, rows in enumerate(episodes, 1):
        if (found - 1) % count != rank:
            continue
        if not kept:
            value = 0.0 if agent.extras_dim else relabel.UNTOLD
            rows = rows._replace(extras=np.full((len(rows.reward), replay.extras_dim), value, np.float32))
        if replay.num_rows + len(rows.reward) > replay.capacity:
            raise ConfigError(
                f"collect.replay_capacity = {config.collect.replay_capacity}: {path} holds more rows, and none is to "
                "be dropped; raise it"
            )
        replay.append(rows)
    if found < count:
        raise ConfigError(f"processes = {count}: {path} holds {found} episodes, and each takes some; set it to {found}")
    return replay.num_rows


def _check(config: Config, agent: Agent, about: About, shapes: Shapes) -> None:
    """Refuse data of another task."""
    if about.task not in ("", config.task):
        raise ConfigError(
            f"data = {config.data}: it is of {about.task}, whose rewards are not those of {config.task}; name other "
            f"data, or import it anew with --task {config.task}"
        )
    if (repeat := config.collect.action_repeat) != about.action_repeat:
        raise ConfigError(
            f"collect.action_repeat = {repeat}: a step of {config.data} is of {about.action_repeat} environment steps; "
            f"set --collect.action-repeat {about.action_repeat}, or merge rows by lsp-fast data import --merge"
        )
    frames = not isinstance(shapes.observation, int)
    if frames != agent.pixels:
        there, here = ("frames", "pixels") if frames else ("features", "features")
        raise ConfigError(f"obs = {config.obs}: {config.data} holds {there}; set --obs {here}, or name other data")
    if (shapes.observation, shapes.action_dim) != (agent.observation, agent.action_dim):
        raise ConfigError(
            f"data = {config.data}: observations of {shapes.observation} and actions of {shapes.action_dim} numbers, "
            f"where {config.task} has {agent.observation} and {agent.action_dim}; name data of this task"
        )


def extras_kind(config: Config) -> str:
    """What the numbers beside a row of such a run are, by name."""
    if config.hiro.goals != "none":
        return f"hiro {config.hiro.goals}"
    return "relabel" if relabel.keeps_extras(config.task) else ""


def of_run(path: Path) -> Stored:
    """The replay of a run's newest checkpoint; of several processes all of theirs. An imported replay is read, too.

    Raises:
        CheckpointError: there is no run, no checkpoint, or the files do not fit it.
        ConfigError: it observes both frames and numbers.
    """
    if folder.holds(path):
        return folder.read_folder(path)
    run = RunFolder(path)
    config = run.read_config()
    state = checkpoint.load_latest(run.checkpoints)
    if state is None:
        raise CheckpointError(f"{path} has no checkpoint yet; let the run go on until it has written one")
    with checkpoint.fitting(state):
        observation, action_dim = checkpoint.observation_of(state), int(state["action_dim"])
        if (sizes := Observed.of(observation)).both:
            raise ConfigError(f"{path} observes both frames and numbers, which no recording holds; name another run")
        observation = sizes.frame or sizes.vector
        # What the agent is only asked of is the same everywhere, and this is to be had everywhere.
        plain = replace(config, {"device": "cpu", "backend": "reference", "train.precision": "fp32"})
        agent = agents.make(observation, action_dim, plain, state.get("goals"))
        repeat = config.collect.action_repeat
        extras_dim = agent.extras_dim or relabel.extras_dim(config.task, repeat)
        states = [json.loads(own["replay"]) for own in (state, *state.get("others", ()))]
        lengths = [int(length) for replay in states for length in replay["episodes"]]
    about = About(config.task, repeat, extras_kind(config), config.algorithm)
    episodes = functools.partial(_of_parts, run, states, observation, action_dim, extras_dim)
    return Stored(str(path), about, observation, action_dim, extras_dim, lengths, episodes)


def _of_parts(
    run: RunFolder, states: list[dict], observation: int | tuple[int, ...], action_dim: int, extras_dim: int
) -> Iterator[Rows]:
    """The episodes of each process's replay."""
    files = folder.files_of(observation, action_dim, extras_dim)
    for rank, state in enumerate(states):
        yield from files.episodes(run.replay_of(rank), state)


def with_bounds(stored: Stored) -> tuple[Stored, object]:
    """A replay with its environment's own bounds of actions, and the environment's spec, where gymnasium has one.

    Raises:
        LspFastError: the environment cannot be made here.
    """
    frames = not isinstance(stored.observation, int)
    env = environment(stored.about.task, stored.about.action_repeat, frames)
    try:
        low, high = (tuple(float(x) for x in bound.flat) for bound in env.action_bounds)
        return stored._replace(about=dataclasses.replace(stored.about, action_low=low, action_high=high)), _spec(env)
    finally:
        env.close()


def _spec(env: Any) -> Any:
    """With which gymnasium makes the environment again; None where it has none, or none that a file can hold."""
    if env.spec is None:
        return None
    try:
        env.spec.to_json()
    except (TypeError, ValueError) as error:
        warnings.warn(f"the dataset will not say how its environment is made: {error}", stacklevel=2)
        return None
    return env.spec
