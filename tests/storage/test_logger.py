"""Rows and scores of a run."""

import json

import numpy as np
import pytest
import torch

from lsp_fast.storage.logger import LogWriter, RunLogger
from lsp_fast.storage.metrics import last_row, read_rows
from lsp_fast.training.means import Means

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


def test_means_are_over_what_came_since_the_last():
    means = Means()
    means.add({"a": torch.tensor(1.0), "b": torch.tensor(2)})
    means.add({"a": torch.tensor(3.0)})
    assert means.pop() == {"a": 2.0, "b": 2.0}
    assert means.pop() == {}


def test_means_go_on_from_a_checkpoint():
    means, restored = Means(), Means()
    means.add({"a": torch.tensor(1.0)})
    restored.load_state_dict(means.state_dict())
    restored.add({"a": torch.tensor(4.0)})
    assert restored.pop() == {"a": 2.5} and means.pop() == {"a": 1.0}


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


def test_the_newest_row_is_found_without_reading_the_rest(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert last_row(path) is None
    path.write_text("".join(json.dumps({"env_steps": n, "x": "y" * 90}) + "\n" for n in range(1000)))
    assert last_row(path)["env_steps"] == 999
    with path.open("a") as file:
        file.write('{"env_steps": 1000, "x"')  # being written
    assert last_row(path)["env_steps"] == 999
    path.write_text("[]\n")
    assert last_row(path) is None


def test_means_bring_a_checkpoints_values_to_the_device_of_todays(monkeypatch):
    """On a GPU the values of a checkpoint lie on the CPU, and a row of both ended every resumed run."""
    means = Means()
    means.load_state_dict({"a": torch.tensor([1.0])})
    means.add({"a": torch.tensor(3.0)})
    asked = []
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: (asked.append(device), to(self, device))[1])
    assert means.pop() == {"a": 2.0} and asked == [torch.device("cpu")] * 2
