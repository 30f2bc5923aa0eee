"""Replays whose rows say where they come from."""

import numpy as np

from lsp_fast.experience.replay import Replay, Rows

OBSERVATION, ACTION = 3, 2


def add_episode(replay, number, rows, env=0, terminated=False, finish=True):
    """Rows that say where they come from: the observation starts with (episode, row)."""
    for row in range(rows):
        replay.add(
            env,
            np.array([number, row, number * 1000 + row]),
            np.array([row, -number]) if row else np.zeros(ACTION),
            row / 2 if row else 0.0,
            terminated and row == rows - 1,
            row == 0,
            finish and row == rows - 1,
        )


def filled(lengths, capacity=10_000, **options):
    replay = Replay(capacity, OBSERVATION, ACTION)
    for number, rows in enumerate(lengths):
        add_episode(replay, number, rows, **options)
    return replay


def content(replay):
    """Every completed row, in order."""
    pieces = [replay._empty(0), *replay._newest(replay.num_rows)]
    return Rows(*map(np.concatenate, zip(*pieces, strict=True)))
