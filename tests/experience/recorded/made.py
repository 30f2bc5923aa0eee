"""Replays and recordings that tests make."""

import h5py
import numpy as np

from lsp_fast.experience.recorded.form import About, Notes, Stored
from lsp_fast.experience.recorded.rows import Converter
from lsp_fast.experience.replay_files import Rows

WIDTH, ACTIONS = 3, 2
PENDULUM = "gym:Pendulum-v1"


def episode(rng, steps, observation=WIDTH, action_dim=ACTIONS, extras=0, terminated=False):
    """Rows of a replay: of random numbers, some of them tiny, negative zeros or bounds."""
    rows = steps + 1
    frames = not isinstance(observation, int)
    seen = (
        rng.integers(0, 256, (rows, int(np.prod(observation))), np.uint8)
        if frames
        else rng.normal(size=(rows, observation))
    )
    action = rng.uniform(-1, 1, (rows, action_dim))
    action[1:4] = [[1.0], [-1.0], [1e-30]][: len(action[1:4])]
    reward = rng.normal(size=rows)
    reward[-1] = -0.0
    action[0] = reward[0] = 0
    found = Rows(
        seen if frames else seen.astype(np.float32),
        action.astype(np.float32),
        reward.astype(np.float32),
        np.zeros(rows, np.float32),
        np.arange(rows) == 0,
        rng.normal(size=(rows, extras)).astype(np.float32),
    )
    found.terminal[-1] = terminated
    return found


def stored(lengths=(5, 3, 4), observation=WIDTH, action_dim=ACTIONS, extras=0, about=None, seed=0):
    """A replay as an export takes it: the second episode ends by termination."""
    rng = np.random.default_rng(seed)
    episodes = [episode(rng, n, observation, action_dim, extras, i == 1) for i, n in enumerate(lengths)]
    about = about or About("", 2, "relabel" if extras else "", "lsp")
    rows = [n + 1 for n in lengths]
    return Stored("made", about, observation, action_dim, extras, rows, lambda: iter(episodes))


def same(found, wanted):
    """Whether two sequences of episodes are the same to the bit."""
    found, wanted = list(found), list(wanted)
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        for name, one, other in zip(Rows._fields, ours, theirs, strict=True):
            assert one.dtype == other.dtype and one.shape == other.shape, name
            assert one.tobytes() == other.tobytes(), name
    return True


def rows_of(source, asked):
    """All rows of an opened recording, and the notes."""
    notes = Notes()
    return list(Converter(source, asked, notes)), notes.lines()


def d4rl(path, terminals=(), timeouts=(), steps=12, **changed):
    """A file of D4RL's kind: every number tells its step; `None` leaves a field out."""
    count = np.arange(steps, dtype=np.float32)
    fields = {
        "observations": np.stack([count, count, count], 1),
        "actions": np.stack([count, -count], 1) / steps,
        "rewards": count / 2,
        "terminals": None if terminals is None else np.isin(count, terminals),
        "timeouts": None if timeouts is None else np.isin(count, timeouts),
        "next_observations": np.stack([count, count, count], 1) + 1,
    } | changed
    with h5py.File(path, "w") as file:
        for name, array in fields.items():
            if array is not None:
                file[name] = array
    return path
