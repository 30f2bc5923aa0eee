"""Rows, scores, pictures and videos of a run's own folder."""

import json
import os

import numpy as np
import pytest

from lsp_fast.media import Video
from lsp_fast.storage.logger import RunLogger, Silent
from lsp_fast.storage.metrics import read_rows
from lsp_fast.storage.writers import LogWriter, json_lines

IDENTITY = {"task": "t", "method": "m", "seed": 4}


def test_rows_and_scores(tmp_path):
    log = RunLogger(tmp_path / "run", IDENTITY)
    log.scalars(10, {"eval/return": 1.5, "x": float("nan")})
    log.scalars(20, {"eval/return": 2.5})
    log.finish("finished")
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
        log.scalars(step, {"eval/return": float(step)})
    log.finish("finished")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 40, "eval')  # a crash while writing
    log = RunLogger(tmp_path, IDENTITY, rows=2)
    log.scalars(25, {"eval/return": 0.0})
    log.finish("finished")
    assert [row["env_steps"] for row in read_rows(tmp_path / "metrics.jsonl")] == [10, 20, 25]
    assert json.loads((tmp_path / "scores.json").read_text())[0]["xs"] == [10, 20, 25]


def test_scores_are_valid_json_whatever_was_scored(tmp_path):
    log = RunLogger(tmp_path, IDENTITY)
    log.scalars(10, {"eval/return": float("inf")})
    log.scalars(20, {"eval/return": 1.0})
    log.finish("finished")
    refuse = {"parse_constant": lambda name: pytest.fail(f"{name} is not JSON")}
    assert json.loads((tmp_path / "scores.json").read_text(), **refuse)[0]["ys"] == [None, 1.0]
    log = RunLogger(tmp_path, IDENTITY, rows=2)
    log.finish("finished")
    assert json.loads((tmp_path / "scores.json").read_text(), **refuse)[0]["ys"] == [None, 1.0]


def test_scores_follow_the_rows(tmp_path):
    log = RunLogger(tmp_path, IDENTITY)
    for step in (10, 20):
        log.scalars(step, {"eval/return": float(step)})
    log.finish("finished")
    scores = tmp_path / "scores.json"
    scores.write_text("[{")  # a broken file heals, and a cut evaluation is gone before the next one is made
    RunLogger(tmp_path, IDENTITY, rows=1).finish("finished")
    assert json.loads(scores.read_text())[0]["xs"] == [10]
    RunLogger(tmp_path, IDENTITY).finish("finished")
    assert not scores.exists()


def test_rows_that_are_gone_are_missed(tmp_path):
    log = RunLogger(tmp_path, IDENTITY)
    for step in (10, 20, 30):
        log.scalars(step, {"x": 1.0})
    log.finish("finished")
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "metrics.jsonl").write_text("\n".join([lines[0], "garbage", lines[2]]))
    with pytest.warns(UserWarning, match=r"metrics\.jsonl holds 1 of the 3 rows"):
        log = RunLogger(tmp_path, IDENTITY, rows=3)
    log.scalars(40, {"x": 1.0})
    log.finish("finished")
    assert [row["env_steps"] for row in read_rows(tmp_path / "metrics.jsonl")] == [10, 40]


def test_every_row_picture_and_video_goes_to_every_writer(tmp_path):
    class Kept(LogWriter):
        def __init__(self):
            self.calls = []

        def scalars(self, env_steps, row):
            self.calls.append((env_steps, dict(row)))

        def picture(self, env_steps, name, pixels):
            self.calls.append((env_steps, name, pixels.shape))

        def video(self, env_steps, name, video):
            self.calls.append((env_steps, name, len(video.frames), video.mp4[4:8]))

        def sync(self):
            self.calls.append("sync")

        def finish(self, outcome):
            self.calls.append(outcome)

    kept, log = Kept(), RunLogger(tmp_path, IDENTITY)
    log.writers.append(kept)
    log.scalars(10, {"x": 1.0})
    log.picture(20, "open_loop", np.zeros((4, 6, 3), np.uint8))
    log.video(30, "episode", Video([np.zeros((5, 7, 3), np.uint8)] * 3))
    log.sync()
    log.finish("stopped")
    assert kept.calls == [
        (10, {"x": 1.0}), (20, "open_loop", (4, 6, 3)), (30, "episode", 3, b"ftyp"), "sync", "stopped",
    ]  # fmt: skip
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*") if path.is_file()}
    assert files == {"metrics.jsonl", "images/open_loop_000000020.png", "videos/episode_000000030.mp4"}


def test_a_checkpoint_may_count_on_the_rows_before_it(tmp_path, monkeypatch):
    made = []
    own = json_lines.os.fsync
    monkeypatch.setattr(json_lines.os, "fsync", lambda number: (made.append(os.fstat(number).st_size), own(number)))
    log = RunLogger(tmp_path, IDENTITY)
    log.scalars(10, {"x": 1.0})
    made.clear()
    log.sync()
    assert made == [(tmp_path / "metrics.jsonl").stat().st_size] != [0]
    log.finish("stopped")


def test_a_process_that_does_not_log_lets_everything_pass(tmp_path):
    log = Silent()
    log.scalars(1, {"x": 1.0})
    log.picture(1, "p", np.zeros((2, 2, 3), np.uint8))
    log.video(1, "v", Video([np.zeros((2, 2, 3), np.uint8)]))
    log.sync()
    log.finish("finished")
    assert (log.rows, log.xs, log.ys) == (0, [], [])
