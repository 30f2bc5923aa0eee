"""Rows, scores and curves of a run."""

import json

import pytest
import torch

from lsp_fast.logger import Means, RunLogger, read_rows
from lsp_fast.plotting import learning_curves, read_scores

IDENTITY = {"task": "t", "method": "m", "seed": 4}


def test_rows_and_scores(tmp_path):
    log = RunLogger(tmp_path / "run", IDENTITY)
    log.write(10, {"eval/return": 1.5, "x": float("nan")})
    log.write(20, {"eval/return": 2.5})
    log.close()
    assert read_rows(tmp_path / "run" / "metrics.jsonl") == [
        {"env_steps": 10, "eval/return": 1.5, "x": None},
        {"env_steps": 20, "eval/return": 2.5},
    ]
    assert json.loads((tmp_path / "run" / "scores.json").read_text()) == [
        {**IDENTITY, "xs": [10, 20], "ys": [1.5, 2.5]}
    ]


def test_a_resumed_log_cuts_what_came_after_the_checkpoint(tmp_path):
    log = RunLogger(tmp_path, IDENTITY)
    for step in (10, 20, 30):
        log.write(step, {"eval/return": float(step)})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 40, "eval')  # a crash while writing
    log = RunLogger(tmp_path, IDENTITY, env_steps=20)
    log.write(25, {"eval/return": 0.0})
    log.close()
    assert [row["env_steps"] for row in read_rows(tmp_path / "metrics.jsonl")] == [10, 20, 25]
    assert json.loads((tmp_path / "scores.json").read_text())[0]["xs"] == [10, 20, 25]


def test_means_are_over_what_came_since_the_last():
    means = Means()
    means.add({"a": torch.tensor(1.0), "b": torch.tensor(2)})
    means.add({"a": torch.tensor(3.0)})
    assert means.pop() == {"a": 2.0, "b": 2.0}
    assert means.pop() == {}


@pytest.mark.parametrize("lengths", [[3], [3, 2], []])
def test_curves_are_drawn(tmp_path, lengths):
    rows = [
        {"task": "t", "method": "m", "seed": i, "xs": [1, 2, 3][:n], "ys": [0.0] * n} for i, n in enumerate(lengths)
    ]
    (tmp_path / "scores.json").write_text(json.dumps(rows))
    path = learning_curves(read_scores([tmp_path / "scores.json"]), tmp_path / "curve.png")
    assert path.read_bytes().startswith(b"\x89PNG")
