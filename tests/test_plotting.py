"""Curves: a panel a task, a mean where seeds share their xs."""

import json
import struct

import numpy as np
import pytest

from lsp_fast.plotting import learning_curves, mean_curve, read_scores


def row(xs, ys, task="t", method="m", seed=0):
    return {"task": task, "method": method, "seed": seed, "xs": xs, "ys": ys}


@pytest.mark.parametrize(
    ("rows", "panels"),
    [
        ([], 1),
        ([row([1, 2], [0.0, 1.0])], 1),
        ([row([1, 2], [0.0, None]), row([1], [1.0], seed=1)], 1),
        ([row([], [])], 1),
        ([row([1], [1.0], method="a"), row([1], [2.0], method="b"), row([3], [1.0], task="u")], 2),
    ],
)
def test_curves_are_drawn_in_a_panel_for_each_task(tmp_path, rows, panels):
    (tmp_path / "a.json").write_text(json.dumps(rows[:1]))
    (tmp_path / "b.json").write_text(json.dumps(rows[1:]))
    path = learning_curves(read_scores([tmp_path / "a.json", tmp_path / "b.json"]), tmp_path / "curve.png")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    [width] = struct.unpack(">I", content[16:20])
    assert width == 660 * panels


def test_the_mean_is_over_the_xs_that_all_seeds_have():
    # Positions alone would pair the second row's 30 with the first one's 20.
    xs, mean = mean_curve([row([10, 20, 30], [1.0, 2.0, 3.0]), row([10, 30, 40], [3.0, 5.0, 9.0])])
    assert xs == [10, 30]
    np.testing.assert_array_equal(mean, [2.0, 4.0])


def test_a_score_that_was_not_finite_is_a_gap():
    xs, mean = mean_curve([row([1, 2], [1.0, None]), row([1, 2], [3.0, 3.0])])
    assert xs == [1, 2]
    np.testing.assert_array_equal(mean, [2.0, np.nan])
