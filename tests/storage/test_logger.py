"""Rows and scores of a run."""

import json

import numpy as np
import pytest

from lsp_fast.storage.logger import LogWriter, RunLogger
from lsp_fast.storage.metrics import read_rows

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
    log = RunLogger(tmp_path, IDENTITY, rows=2)
    log.write(25, {"eval/return": 0.0})
    log.close()
    assert [row["env_steps"] for row in read_rows(tmp_path / "metrics.jsonl")] == [10, 20, 25]
    assert json.loads((tmp_path / "scores.json").read_text())[0]["xs"] == [10, 20, 25]


def test_scores_are_valid_json_whatever_was_scored(tmp_path):
    log = RunLogger(tmp_path, IDENTITY)
    log.write(10, {"eval/return": float("inf")})
    log.write(20, {"eval/return": 1.0})
    log.close()
    refuse = {"parse_constant": lambda name: pytest.fail(f"{name} is not JSON")}
    assert json.loads((tmp_path / "scores.json").read_text(), **refuse)[0]["ys"] == [None, 1.0]
    log = RunLogger(tmp_path, IDENTITY, rows=2)
    log.close()
    assert json.loads((tmp_path / "scores.json").read_text(), **refuse)[0]["ys"] == [None, 1.0]


def test_scores_follow_the_rows(tmp_path):
    log = RunLogger(tmp_path, IDENTITY)
    for step in (10, 20):
        log.write(step, {"eval/return": float(step)})
    log.close()
    scores = tmp_path / "scores.json"
    scores.write_text("[{")  # a broken file heals, and a cut evaluation is gone before the next one is made
    RunLogger(tmp_path, IDENTITY, rows=1).close()
    assert json.loads(scores.read_text())[0]["xs"] == [10]
    RunLogger(tmp_path, IDENTITY).close()
    assert not scores.exists()


def test_rows_that_are_gone_are_missed(tmp_path):
    log = RunLogger(tmp_path, IDENTITY)
    for step in (10, 20, 30):
        log.write(step, {"x": 1.0})
    log.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "metrics.jsonl").write_text("\n".join([lines[0], "garbage", lines[2]]))
    with pytest.warns(UserWarning, match=r"metrics\.jsonl holds 1 of the 3 rows"):
        log = RunLogger(tmp_path, IDENTITY, rows=3)
    log.write(40, {"x": 1.0})
    log.close()
    assert [row["env_steps"] for row in read_rows(tmp_path / "metrics.jsonl")] == [10, 40]


def test_events_are_written_with_the_first_row_only(tmp_path):
    log = RunLogger(tmp_path, IDENTITY)
    log.close()
    assert not list(tmp_path.glob("events*"))
    log = RunLogger(tmp_path, IDENTITY)
    log.write(1, {"a": 1.0})
    log.close()
    assert len(list(tmp_path.glob("events*"))) == 1


def test_a_writer_of_ones_own_gets_every_row_and_picture(tmp_path):
    class Kept(LogWriter):
        def __init__(self):
            self.rows, self.pictures = [], []

        def write(self, env_steps, row):
            self.rows.append((env_steps, dict(row)))

        def picture(self, env_steps, name, pixels):
            self.pictures.append((env_steps, name, pixels.shape))

    kept, log = Kept(), RunLogger(tmp_path, IDENTITY)
    log.writers.append(kept)
    log.write(10, {"x": 1.0})
    log.picture(20, "open_loop", np.zeros((4, 6, 3), np.uint8))
    log.sync()
    log.close()
    assert kept.rows == [(10, {"x": 1.0})] and kept.pictures == [(20, "open_loop", (4, 6, 3))]
    assert (tmp_path / "images" / "open_loop_000000020.png").exists() and not (tmp_path / "scores.json").exists()
