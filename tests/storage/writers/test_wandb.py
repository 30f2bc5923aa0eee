"""Weights & Biases in its offline mode: what lies on disk for `wandb sync`."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from storage import wandb_file

from lsp_fast.media import Video
from lsp_fast.storage.logger import RunLogger
from lsp_fast.storage.metrics import read_rows

IDENTITY = {"task": "walker_walk", "method": "lsp", "seed": 4}
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    hooks = sys.exit, sys.excepthook
    yield
    assert (sys.exit, sys.excepthook) == hooks


def opened(folder, rows=0, **values):
    return RunLogger(folder, IDENTITY, rows, ["wandb"], {"skill.beta": 0.3, "env_steps": 100, **values})


def files(folder):
    """Its files, the oldest first."""
    found = [wandb_file.finished(path) for path in folder.glob("wandb/offline-run-*/*.wandb")]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def test_rows_pictures_videos_and_the_configuration_lie_there(tmp_path):
    folder = tmp_path / "walker_walk-lsp-4"
    log = opened(folder)
    log.scalars(10, {"eval/return": 1.5})
    log.scalars(10, {"behavior/value": float("nan")})
    log.picture(10, "open_loop", np.zeros((4, 6, 3), np.uint8))
    log.video(10, "episode", Video([np.zeros((16, 16, 3), np.uint8)] * 3))
    log.scalars(20, {"eval/return": 2.5})
    log.sync()
    log.finish("finished")
    [path] = files(folder)
    rows = wandb_file.history(path)
    assert sorted(rows) == [10, 20] and rows[20] == {"eval/return": 2.5}
    assert rows[10]["eval/return"] == 1.5 and math.isnan(rows[10]["behavior/value"])
    media = path.parent / "files"
    assert (media / rows[10]["open_loop/path"]).read_bytes()[1:4] == b"PNG"
    assert (media / rows[10]["episode/path"]).read_bytes()[4:8] == b"ftyp"
    run = wandb_file.run(path)
    assert (run.project, run.display_name, run.run_group) == ("lsp_fast", folder.name, "walker_walk lsp")
    assert wandb_file.config(path) == {"_wandb": {}, "skill.beta": 0.3, "env_steps": 100}
    assert wandb_file.exit_code(path) == 0


def test_its_own_variables_say_where_to(tmp_path, monkeypatch):
    for name, value in (("WANDB_PROJECT", "mine"), ("WANDB_NAME", "first"), ("WANDB_RUN_GROUP", "all")):
        monkeypatch.setenv(name, value)
    log = opened(tmp_path)
    log.finish("failed")
    [path] = files(tmp_path)
    run = wandb_file.run(path)
    assert (run.project, run.display_name, run.run_group) == ("mine", "first", "all")
    assert wandb_file.exit_code(path) == 1


def test_a_resumed_run_is_the_same_one_and_no_row_is_there_twice(tmp_path):
    log = opened(tmp_path)
    for step in (10, 20, 30, 40):
        log.scalars(step, {"eval/return": float(step)})
    log.finish("stopped")
    log = opened(tmp_path, rows=2, env_steps=200)  # 30 and 40 came after the checkpoint
    log.scalars(30, {"eval/return": 30.0})
    log.finish("stopped")
    log = opened(tmp_path, rows=2)  # stopped again before it came as far as the first time
    for step in (30, 40, 50):
        log.scalars(step, {"eval/return": float(step)})
    log.finish("finished")
    first, second, third = files(tmp_path)
    assert len({wandb_file.run(path).run_id for path in (first, second, third)}) == 1
    found = [sorted(wandb_file.history(path)) for path in (first, second, third)]
    assert found == [[10, 20, 30, 40], [], [50]]
    assert wandb_file.config(second)["env_steps"] == 200
    assert [row["env_steps"] for row in read_rows(tmp_path / "metrics.jsonl")] == [10, 20, 30, 40, 50]


def test_what_a_kill_took_along_is_written_again(tmp_path):
    script = (
        "import os, pathlib, sys, time\n"
        "from lsp_fast.storage.logger import RunLogger\n"
        "log = RunLogger(pathlib.Path(sys.argv[1]), dict(task='t', method='m', seed=0), 0, ['wandb'])\n"
        "for step in range(300): log.scalars(step, {f'name {i}': 0.1 for i in range(20)})\n"
        "while log.writers[-1]._calls.qsize(): time.sleep(0.01)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_SERVICE")}
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, env=own)
    assert done.returncode == -9, done.stderr
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 300
    log = opened(tmp_path, rows=300)
    log.scalars(300, {"name 0": 0.1})
    log.finish("finished")
    first, second = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    steps = [*wandb_file.history(first), *wandb_file.history(wandb_file.finished(second))]
    assert sorted(steps) == list(range(301)) and 300 in wandb_file.history(second)


def test_a_run_that_was_logged_elsewhere_so_far_is_there_whole(tmp_path):
    log = RunLogger(tmp_path, IDENTITY)
    log.scalars(10, {"eval/return": 1.0, "x": math.nan})
    log.scalars(20, {"eval/return": 2.0})
    log.finish("stopped")
    log = opened(tmp_path, rows=1)
    log.scalars(20, {"eval/return": 2.0})
    log.finish("finished")
    [path] = files(tmp_path)
    assert wandb_file.history(path) == {10: {"eval/return": 1.0}, 20: {"eval/return": 2.0}}


def test_online_what_the_run_has_is_not_sent_again(tmp_path, monkeypatch):
    """Its library says how far a run has come; here a stand-in does, as nothing answers in a test."""
    import wandb

    sent, asked = [], {}

    class Run:
        id, step = "abc", 21

        def log(self, values, step):
            sent.append(step)

        def finish(self, exit_code):
            sent.append(f"exit {exit_code}")

    monkeypatch.setattr(wandb, "init", lambda **given: (asked.update(given), Run())[1])
    monkeypatch.setattr(wandb, "login", lambda **given: given == {"prompt": False, "verify": False})
    monkeypatch.setenv("WANDB_MODE", "online")
    wandb.teardown()
    for rows, steps in ((0, (10, 20)), (2, (30,))):
        log = opened(tmp_path, rows)
        for step in steps:
            log.scalars(step, {"x": 1.0})
        log.finish("finished")
    wandb.teardown()
    assert sent == ["exit 0", 30, "exit 0"]
    assert asked["id"] == "abc" and asked["resume"] == "allow" and asked["reinit"] == "create_new"


def test_without_a_key_nobody_is_asked_at_the_terminal(tmp_path, monkeypatch):
    import wandb

    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    wandb.teardown()
    log = opened(tmp_path / "run")
    log.scalars(10, {"x": 1.0})
    with pytest.warns(UserWarning, match="--log wandb is left out.*no API key; type wandb login, or set WANDB_MODE"):
        log.finish("finished")
    wandb.teardown()
    assert [row["env_steps"] for row in read_rows(tmp_path / "run" / "metrics.jsonl")] == [10]


def test_no_key_lies_in_the_files(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-token-of-mlflow")
    log = opened(tmp_path)
    log.scalars(10, {"x": 1.0})
    log.finish("finished")
    content = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(content) > 3
    assert not [found for found in content if KEY.encode() in found or b"a-token-of-mlflow" in found]
