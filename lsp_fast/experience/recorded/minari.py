"""Minari's datasets, read and written by its own library."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Tuple, flatten

from lsp_fast.errors import LspFastError, first_line
from lsp_fast.experience.recorded.form import ABOUT, About, Asked, Notes, Place, Recording, Source, Stored
from lsp_fast.extras import load

EXTRAS = "extras"
METADATA = "metadata.json"


def data_folder(path: Path) -> Path | None:
    """Where the numbers of a dataset's folder lie; None where it is none."""
    return next((place for place in (path, path / "data") if (place / METADATA).is_file()), None)


def open_minari(path: Path, asked: Asked) -> Source:
    """A dataset's folder.

    Raises:
        LspFastError: Minari cannot read it, or its actions are not continuous.
    """
    load("minari", "data", str(path))
    storage_of = load("minari.dataset.minari_storage", "data", str(path)).MinariStorage
    place = data_folder(path)
    assert place is not None
    try:
        storage = storage_of.read(place.resolve())
        metadata = storage.metadata
        count = int(metadata["total_episodes"])
    except Exception as error:  # a foreign file makes it fail with anything
        raise LspFastError(f"{path} is not a dataset that Minari can read: {first_line(error)}") from error
    actions, space = storage.action_space, storage.observation_space
    if not isinstance(actions, Box):
        raise LspFastError(f"{path} has actions {actions}; only continuous ones (a Box) can be learned")
    bounds = (actions.low, actions.high) if actions.is_bounded() else None
    if bounds is None and not asked.action_low:
        raise LspFastError(
            f"{path} has actions without bounds; give what they lie in by --action-low and --action-high"
        )
    about = About.read(metadata.get(ABOUT))
    if not about.action_repeat:  # Minari records every step of an environment
        about = About(action_repeat=1, algorithm=str(metadata.get("algorithm_name", "")))

    def episodes(notes: Notes) -> Iterator[Recording]:
        number = 0
        try:
            for number, episode in enumerate(storage.get_episodes(range(count))):
                yield _recording(f"episode {number}", episode, space, asked, notes)
                number += 1  # what cannot be read is the next one
        except LspFastError:
            raise
        except (KeyError, OSError, RuntimeError, ValueError, TypeError, IndexError) as error:
            raise LspFastError(f"{path}: episode {number} cannot be read: {error!r}") from error

    return Source("Minari", about, bounds, episodes)


def write_minari(folder: Path, stored: Stored, name: str, metadata: dict[str, Any], spec: Any = None) -> None:
    """A dataset into a folder that is there.

    Args:
        name: the dataset's, as `walker_walk/lsp-v0`.
        metadata: more of it, by Minari's names.
        spec: the environment's, with which `recover_environment` makes it.

    Raises:
        LspFastError: the name is none of Minari's.
    """
    minari = load("minari", "data", "a Minari dataset")
    storage_of = load("minari.dataset.minari_storage", "data", "a Minari dataset").MinariStorage
    buffer_of = load("minari.data_collector.episode_buffer", "data", "a Minari dataset").EpisodeBuffer
    shape = stored.observation
    space = Box(-np.inf, np.inf, (shape,), np.float32) if isinstance(shape, int) else Box(0, 255, shape, np.uint8)
    # Without JPEG, which changes frames.
    storage = storage_of.new(
        folder.resolve() / "data",  # of a relative path Minari names its files wrongly
        observation_space=space,
        action_space=Box(-1, 1, (stored.action_dim,), np.float32),
        env_spec=spec,
        jpeg_encoding=False,
    )

    def buffers() -> Iterator[Any]:
        for rows in stored.episodes():
            n = len(rows.reward) - 1
            ended = bool(rows.terminal[-1])
            last = np.arange(n) == n - 1
            yield buffer_of(
                observations=rows.observation.reshape(n + 1, *space.shape),
                actions=rows.action[1:],
                rewards=rows.reward[1:],
                terminations=last & ended,
                truncations=last & (not ended),
                infos={EXTRAS: rows.extras} if stored.extras_dim else None,
            )

    storage.update_episodes(buffers())
    storage.update_metadata(
        {"dataset_id": name, "minari_version": minari.__version__, ABOUT: stored.about.told(), **metadata}
    )


def check_name(name: str) -> None:
    """
    Raises:
        LspFastError: Minari would not find a dataset of that name.
    """
    parse = load("minari.dataset.minari_dataset", "data", "a Minari dataset").parse_dataset_id
    try:
        parse(name)
    except (TypeError, ValueError) as error:  # a name without a version is no number
        raise LspFastError(f"{name} is not a name of Minari's; end it with a version, as {name}-v0") from error


def _recording(name: str, episode: dict[str, Any], space: gymnasium.Space, asked: Asked, notes: Notes) -> Recording:
    fields = {}
    for field in ("rewards", "terminations", "truncations"):
        fields[field] = np.asarray(episode[field]).reshape(-1)
    n = len(fields["rewards"])
    for field, array in fields.items():
        if len(array) != n:
            raise LspFastError(f"{name}: {field} has {len(array)} entries and rewards {n}; each step has one of each")
        if field != "rewards" and len(early := np.flatnonzero(array[:-1])):
            raise LspFastError(f"{name}: {field} of row {early[0]} is true, and the episode goes on to row {n - 1}")
    ended = bool(n and fields["terminations"][-1])
    if n and not ended and not fields["truncations"][-1]:
        notes.counted["episodes end neither by termination nor by truncation: they count as cut off by time"] += 1
    observation, target = episode["observations"], asked.target
    if isinstance(observation, (dict, tuple)):
        own = target.space if target is not None else None
        entries = target.entries if target is not None and own is None else None
        if entries and isinstance(observation, dict) and set(entries) == set(observation):
            observation = np.concatenate([_flat(observation[key]) for key in entries], 1)
            notes.say("observations are flattened in the task's order")
        else:
            # Of what the task observes, in the order of its own space, as its environment gives it.
            rest = None if own is None else _beyond(own, space)
            if own is not None and rest is not None:
                if rest:
                    notes.say(f"{', '.join(rest)}: left out, as the task does not observe it")
                space = own
            observation = flattened(space, observation)
            notes.say("observations are flattened as gymnasium does")
    elif not isinstance(space, Box):
        observation = flattened(space, observation)
    places = Place("observations"), Place("actions"), Place("rewards")
    infos = episode.get("infos") or {}
    extras = infos.get(EXTRAS) if isinstance(infos, dict) else None
    return Recording(name, np.asarray(observation), episode["actions"], fields["rewards"], ended, places, extras)


def _beyond(own: gymnasium.Space, recorded: gymnasium.Space, within: str = "") -> list[str] | None:
    """Names of a recorded Dict's entries, at any depth, that the task does not have; None where it has one that was not
    recorded, or they are no Dicts."""
    if not isinstance(own, Dict) or not isinstance(recorded, Dict):
        return [] if within and type(own) is type(recorded) else None
    if not set(own.spaces) <= set(recorded.spaces):
        return None
    names = [f"{within}{name}" for name in recorded.spaces if name not in own.spaces]
    for name, entry in own.spaces.items():
        found = _beyond(entry, recorded.spaces[name], f"{within}{name}/")
        if found is None:
            return None
        names += found
    return names


def flattened(space: gymnasium.Space, values: Any) -> np.ndarray:
    """What `gymnasium.spaces.flatten` makes of each entry of an array (or of a dictionary or tuple of arrays), [n, O].

    Raises:
        LspFastError: such observations have no fixed number of entries.
    """
    if isinstance(space, Dict):
        return np.concatenate([flattened(part, values[key]) for key, part in space.spaces.items()], 1)
    if isinstance(space, Tuple):
        return np.concatenate([flattened(part, value) for part, value in zip(space.spaces, values, strict=True)], 1)
    if isinstance(space, Box):
        return _flat(np.asarray(values))
    if not space.is_np_flattenable:
        raise LspFastError(f"observations {space} have no fixed number of entries, and cannot be learned from")
    return np.stack([np.asarray(flatten(space, value)) for value in values])


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), math.prod(array.shape[1:]))
