"""MLflow in its stores on this machine: SQLite, which is its default, and files."""

import fcntl
import logging
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import mlflow
import numpy as np
import pytest

from lsp_fast.config import flat, make_config, to_dict
from lsp_fast.errors import LspFastError
from lsp_fast.media import Video
from lsp_fast.storage.logger import RunLogger
from lsp_fast.storage.writers import registry

IDENTITY = {"task": "walker_walk", "method": "lsp", "seed": 4}


@pytest.fixture(autouse=True)
def store(monkeypatch, tmp_path):
    """Files: a database takes seconds to make, which one test waits for."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logging.getLogger("mlflow").setLevel(logging.WARNING)


def opened(folder, rows=0, **values):
    return RunLogger(folder, IDENTITY, rows, ["mlflow"], {"skill.beta": 0.3, "env_steps": 100, "label": "", **values})


def runs():
    return mlflow.MlflowClient().search_runs([mlflow.MlflowClient().get_experiment_by_name("lsp_fast").experiment_id])


def history(run, name):
    found = mlflow.MlflowClient().get_metric_history(run.info.run_id, name)
    return sorted((metric.step, metric.value) for metric in found)


@pytest.mark.parametrize("kind", ["files", "database"])
def test_rows_pictures_videos_and_the_configuration_lie_there(tmp_path, monkeypatch, kind):
    if (
        kind == "database"
    ):  # its default, in the folder that one is in; where there is memory for it, no disk is waited for
        place = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        monkeypatch.chdir(place.name)
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
    folder = tmp_path / "walker_walk-lsp-4"
    log = opened(folder)
    log.scalars(10, {"eval/return": 1.5, "behavior/value": math.nan})
    log.picture(10, "open_loop", np.zeros((4, 6, 3), np.uint8))
    log.video(10, "episode", Video([np.zeros((16, 16, 3), np.uint8)] * 3))
    log.scalars(20, {"eval/return": 2.5})
    log.sync()
    log.finish("finished")
    [run] = runs()
    assert run.info.run_name == folder.name and run.info.status == "FINISHED"
    assert history(run, "eval/return") == [(10, 1.5), (20, 2.5)]
    assert math.isnan(history(run, "behavior/value")[0][1])
    assert run.data.params == {"skill.beta": "0.3", "env_steps": "100", "label": ""}
    assert {name: run.data.tags[name] for name in IDENTITY} == {"task": "walker_walk", "method": "lsp", "seed": "4"}
    client = mlflow.MlflowClient()
    paths = [file.path for kind in ("images", "videos") for file in client.list_artifacts(run.info.run_id, kind)]
    assert paths == ["images/open_loop_000000010.png", "videos/episode_000000010.mp4"]
    assert Path("mlflow.db").exists() == (kind == "database")


def test_a_whole_configuration_fits(tmp_path):
    config = flat(to_dict(make_config("cpu", task="walker_walk", label="x" * 700)))
    log = RunLogger(tmp_path / "run", IDENTITY, 0, ["mlflow"], config)
    log.finish("finished")
    [run] = runs()
    assert set(run.data.params) == set(config) and run.data.params["behavior.gamma"] == "0.99"


def test_a_resumed_run_is_the_same_one_and_no_row_is_there_twice(tmp_path):
    folder = tmp_path / "run"
    log = opened(folder)
    for step in (10, 20, 30, 40):
        log.scalars(step, {"eval/return": float(step)})
    log.finish("stopped")
    assert runs()[0].info.status == "KILLED"
    log = opened(folder, rows=2, env_steps=200)  # 30 and 40 came after the checkpoint
    for step in (30, 40, 50):
        log.scalars(step, {"eval/return": float(step), "new": 1.0})
    log.finish("finished")
    [run] = runs()
    assert run.info.status == "FINISHED"
    assert history(run, "eval/return") == [(step, float(step)) for step in (10, 20, 30, 40, 50)]
    assert [step for step, _ in history(run, "new")] == [30, 40, 50]
    assert run.data.params["env_steps"] == "100"  # MLflow lets none change


def test_what_is_missing_there_is_sent_after(tmp_path):
    """As of a run that was logged elsewhere so far, or whose writer was left out for a while."""
    folder = tmp_path / "run"
    log = opened(folder)
    log.scalars(10, {"eval/return": 1.0})
    log.finish("stopped")
    log = RunLogger(folder, IDENTITY, 1)
    log.scalars(20, {"eval/return": 2.0})
    log.finish("stopped")
    log = opened(folder, rows=2)
    log.scalars(30, {"eval/return": 3.0})
    log.finish("finished")
    [run] = runs()
    assert history(run, "eval/return") == [(10, 1.0), (20, 2.0), (30, 3.0)]


def test_a_run_that_was_deleted_begins_anew_and_says_so(tmp_path):
    folder = tmp_path / "run"
    log = opened(folder)
    log.scalars(10, {"eval/return": 1.0})
    log.finish("stopped")
    [run] = runs()
    mlflow.MlflowClient().delete_run(run.info.run_id)
    with pytest.warns(UserWarning, match=f"MLflow has no run {run.info.run_id} where it writes now; a new one begins"):
        log = opened(folder, rows=1)
        log.finish("finished")
    [new] = runs()
    assert new.info.run_id != run.info.run_id and history(new, "eval/return") == [(10, 1.0)]


def test_its_own_variables_name_the_experiment(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    opened(tmp_path / "run").finish("failed")
    client = mlflow.MlflowClient()
    [run] = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert run.info.status == "FAILED"


def test_a_server_that_is_not_there_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:a-password@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    log = opened(tmp_path / "run")
    log.scalars(10, {"x": 1.0})
    with pytest.warns(UserWarning, match="--log mlflow is left out.*127.0.0.1") as told:
        log.finish("finished")
    assert "a-password" not in str(told[0].message)
    assert (tmp_path / "run" / "metrics.jsonl").exists()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"a-password" in path.read_bytes()]


def free(folder):
    """Whether nobody holds its lock."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def test_of_runs_that_open_one_sqlite_file_each_waits_for_the_others(tmp_path, monkeypatch):
    """MLflow makes its tables where its client is made, and two who do so spoil the file."""
    (tmp_path / "a b").mkdir()
    found = []

    class Client:
        def __init__(self):
            found.append(free(tmp_path / "a b"))
            raise RuntimeError("seen enough")

    monkeypatch.setattr(mlflow, "MlflowClient", Client)
    for address in (f"sqlite:///{tmp_path}/a%20b/x.db", "http://127.0.0.1:9", f"sqlite:///{tmp_path}/absent/x.db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.warns(UserWarning, match="seen enough"):
            opened(tmp_path / "run").finish("finished")
    assert found == [False, True, True] and free(tmp_path / "a b")


@pytest.mark.slow
def test_runs_that_begin_at_once_are_all_there(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    script = (
        "import pathlib, sys\n"
        "from lsp_fast.storage.logger import RunLogger\n"
        "log = RunLogger(pathlib.Path(sys.argv[1]), dict(task='t', method='m', seed=0), 0, ['mlflow'])\n"
        "log.scalars(10, {'x': 1.0})\n"
        "log.finish('finished')\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", script, name]) for name in "abc"]
    assert [process.wait(120) for process in started] == [0, 0, 0]
    found = {run.info.run_name: history(run, "x") for run in runs()}
    assert found == {name: [(10, 1.0)] for name in "abc"}


def test_its_databases_libraries_are_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "alembic", None)
    registry.find("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(LspFastError, match=r"into a database, its default, needs alembic.*'lsp-fast\[mlflow\]'"):
        registry.find("mlflow")
