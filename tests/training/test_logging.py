"""Runs that log elsewhere: the same run goes on there, nothing there changes a run, and nothing there ends one."""

import logging
import re
import warnings

import mlflow
import numpy as np
import pytest
import torch
from several_processes import config as processes_config
from several_processes import together_call, trained
from storage import wandb_file
from storage.event_files import next_second
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lsp_fast.cli import main
from lsp_fast.envs.dmc import DmcEnv
from lsp_fast.errors import LspFastError
from lsp_fast.storage import checkpoint
from lsp_fast.storage.metrics import read_rows
from lsp_fast.storage.run_folder import RunFolder
from lsp_fast.storage.writers import LogWriter, registry
from lsp_fast.sweeps import sweep
from lsp_fast.training.loop import train
from lsp_fast.training.trainer import Trainer

TIMED = ("seconds", "updates_per_second")
TASK = "gym:Pendulum-v1"  # episodes of 200 steps


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    """Weights & Biases offline, MLflow in files."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logging.getLogger("mlflow").setLevel(logging.WARNING)


@pytest.fixture
def brief(smoke):
    """A run of a second."""
    base = {"task": TASK, "collect__prefill": 400, "env_steps": 620, "train__eval_every": 300, "train__log_every": 100}
    return lambda **values: smoke(**{**base, **values})


def told(folder):
    """The metrics of a run, but for what the clock says."""
    rows = read_rows(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


def weights(result):
    return checkpoint.load(result.checkpoint)["agent"]["modules"]


def same(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def runs():
    client = mlflow.MlflowClient()
    return client.search_runs([client.get_experiment_by_name("lsp_fast").experiment_id])


def steps(run, name):
    return sorted(metric.step for metric in mlflow.MlflowClient().get_metric_history(run.info.run_id, name))


def test_a_resumed_run_goes_on_in_the_same_run_everywhere_and_is_the_same_run(brief, tmp_path):
    everywhere = ("tensorboard", "wandb", "mlflow")
    whole = train(brief(log=()), tmp_path / "whole", progress=False)
    first = train(brief(env_steps=430, log=everywhere), tmp_path / "run", progress=False)
    assert first.env_steps == 430
    next_second()
    second = train(brief(log=everywhere), tmp_path / "run", progress=False)
    assert same(whole, second) and not list(whole.folder.glob("events*"))

    rows = read_rows(second.folder / "metrics.jsonl")
    evaluated = [row["env_steps"] for row in rows if "eval/return" in row]
    logged = [row["env_steps"] for row in rows if "updates" in row]
    [run] = runs()
    assert run.info.status == "FINISHED" and run.data.params["task"] == TASK
    assert steps(run, "eval/return") == evaluated and steps(run, "updates") == logged
    files = [wandb_file.finished(path) for path in second.folder.glob("wandb/offline-run-*/*.wandb")]
    assert len(files) == 2 and len({wandb_file.run(path).run_id for path in files}) == 1
    histories = [wandb_file.history(path) for path in files]
    assert sorted(step for found in histories for step in found) == sorted({row["env_steps"] for row in rows})
    assert {wandb_file.config(path)["env_steps"] for path in files} == {430, 620}
    events = EventAccumulator(str(second.folder)).Reload()
    assert [event.step for event in events.Scalars("eval/return")] == evaluated

    train(brief(log=everywhere), tmp_path / "run", progress=False)  # it is over, and adds nothing anywhere
    assert len(list(second.folder.glob("wandb/offline-run-*"))) == 2 and len(runs()) == 1


class Breaks(LogWriter):
    """Raises when it is opened, or in the second call of each kind."""

    at, calls = "", ()

    def __init__(self, start):
        self.calls = []
        self._do("opening")

    def _do(self, call):
        self.calls.append(call)
        if self.at == call and self.calls.count(call) == (1 if call in ("opening", "finish") else 2):
            raise RuntimeError(f"broken at {call}")

    def scalars(self, env_steps, row):
        row["eval/return"] = 0.0  # what it does with its row is its own matter
        self._do("scalars")

    def sync(self):
        self._do("sync")

    def finish(self, outcome):
        self._do("finish")


def test_writers_that_fail_leave_the_run_as_it_is(brief, tmp_path, monkeypatch, capsys):
    calls = ("opening", "scalars", "sync", "finish")
    for call in calls:
        monkeypatch.setitem(registry.OURS, call, type("Breaking", (Breaks,), {"at": call}))
    values = {"train__checkpoint_every": 100}
    whole = train(brief(log=(), **values), tmp_path / "whole", progress=False)
    broken = train(brief(log=(*calls, "mlflow"), **values), tmp_path / "broken", progress=False)
    said = sorted(line for line in capsys.readouterr().err.splitlines() if "left out" in line)
    for call, words in zip(sorted(calls), said, strict=True):
        assert re.match(f"warning: --log {call} is left out, and the run goes on: {call} .*broken at {call}$", words)
    assert broken.finished and told(broken.folder) == told(whole.folder) and same(whole, broken)
    assert len(runs()) == 1 and runs()[0].info.status == "FINISHED"


def test_where_a_run_logs_may_change_and_what_it_learns_may_not(brief, tmp_path):
    train(brief(env_steps=430, log=("mlflow",)), tmp_path / "run", progress=False)
    train(brief(log=("tensorboard",), train__video_every=0), tmp_path / "run", progress=False)
    assert RunFolder(tmp_path / "run").read_config().log == ("tensorboard",)
    [event, *_] = EventAccumulator(str(tmp_path / "run")).Reload().Scalars("updates")
    assert event.step == 100  # the rows from before are there, too
    with pytest.raises(LspFastError, match="seed: 0 there, 4 asked for"):
        train(brief(seed=4), tmp_path / "run", progress=False)


def test_a_run_that_fails_is_told_so(brief, tmp_path, monkeypatch):
    learn = Trainer.learn

    def broken(self):
        if self.updates == 5:
            raise OSError(28, "No space left on device")
        learn(self)

    monkeypatch.setattr(Trainer, "learn", broken)
    with pytest.raises(LspFastError, match="No space left"):
        train(brief(log=("mlflow", "wandb")), tmp_path / "run", progress=False)
    assert [run.info.status for run in runs()] == ["FAILED"]
    [path] = tmp_path.glob("run/wandb/offline-run-*/*.wandb")
    assert wandb_file.exit_code(wandb_file.finished(path)) == 1


def test_an_unknown_place_is_refused_before_anything_is_written(brief, tmp_path):
    with pytest.raises(LspFastError, match="log = 'tensorbord': there is no such writer; did you mean tensorboard"):
        train(brief(log=("tensorbord",)), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_of_several_processes_only_the_first_writes(tmp_path):
    c = processes_config(log=("tensorboard", "mlflow"), env_steps=700)
    [first, second] = together_call(trained, c, tmp_path / "run")
    assert first == second and first[2]
    [run] = runs()
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert steps(run, "updates") == [row["env_steps"] for row in rows if "updates" in row]
    assert len(list((tmp_path / "run").glob("events*"))) == 1


# Sweeps and commands.

SWEEP = f"""
preset = "smoke"
device = "cpu"
seeds = [0, 1]
env_steps = 1000
log = ["mlflow"]
[[tasks]]
task = "{TASK}"
[[methods]]
algorithm = "lsp"
"""


def test_a_sweeps_runs_log_where_its_file_says(tmp_path):
    (tmp_path / "e.toml").write_text(SWEEP)
    cells = sweep.read(tmp_path / "e.toml", tmp_path / "out")
    assert [cell.config.log for cell in cells] == [("mlflow",)] * 2
    assert [cell() for cell in cells] == ["finished"] * 2
    assert sorted(run.info.run_name for run in runs()) == [cell.folder.name for cell in cells]
    other = sweep.read(tmp_path / "e.toml", tmp_path / "out", log=["tensorboard"])
    assert all(cell.finished and not cell.changed() for cell in other)
    with pytest.raises(LspFastError, match=r"e\.toml: log = 'mlflo': there is no such writer; did you mean mlflow"):
        sweep.read(tmp_path / "e.toml", tmp_path / "out", log=["mlflo"])


def test_the_option_takes_names_or_none(tmp_path, capsys):
    options = f"train --preset smoke --device cpu --backend reference --task {TASK} --env-steps 1000"
    assert main([*options.split(), "--log", "--logdir", str(tmp_path / "none")]) == 0
    assert not list((tmp_path / "none").glob("events*"))
    assert main([*options.split(), "--log", "tensorboard", "mlflow", "--logdir", str(tmp_path / "two")]) == 0
    assert list((tmp_path / "two").glob("events*")) and len(runs()) == 1
    source, new = str(tmp_path / "two"), str(tmp_path / "new")
    assert main(["transfer", "--source", source, "--task", TASK, "--logdir", new, "--log", "mlflow"]) == 0
    assert len(runs()) == 2 and not list((tmp_path / "new").glob("events*"))


# Videos.


@pytest.fixture
def painted(monkeypatch):
    """Frames without OpenGL."""
    monkeypatch.setattr(DmcEnv, "render_frame", lambda self, width, height: np.zeros((height, width, 3), np.uint8))


FILMED = {"task": "cheetah_run", "env_steps": 1300, "collect__prefill": 1000, "train__eval_every": 50}
FILMED |= {"train__eval_episodes": 1, "collect__action_repeat": 20}


def test_evaluations_are_filmed_at_their_cadence_and_the_run_stays_the_same(smoke, painted, tmp_path):
    whole = train(smoke(**FILMED), tmp_path / "whole", progress=False)
    assert not (whole.folder / "videos").exists()
    config = smoke(**FILMED, train__video_every=100, log=("tensorboard", "wandb", "mlflow"))
    train(
        smoke(**{**FILMED, "env_steps": 1100}, train__video_every=100, log=config.log), tmp_path / "run", progress=False
    )
    next_second()
    filmed = train(config, tmp_path / "run", progress=False)
    assert told(filmed.folder) == told(whole.folder) and same(whole, filmed)
    names = [f"episode_{step:09d}.mp4" for step in (1000, 1100, 1200, 1300)]
    assert sorted(path.name for path in (filmed.folder / "videos").iterdir()) == names
    events = EventAccumulator(str(filmed.folder)).Reload()
    assert [image.step for image in events.Images("episode")] == [1000, 1100, 1200, 1300]
    artifacts = mlflow.MlflowClient().list_artifacts(runs()[0].info.run_id, "videos")
    assert [file.path for file in artifacts] == [f"videos/{name}" for name in names]
    assert len(list(filmed.folder.glob("wandb/offline-run-*/files/media/videos/*.mp4"))) == 4


@pytest.mark.parametrize("task", ["cheetah_run", TASK])
def test_without_frames_that_is_said_once_and_the_run_goes_on(smoke, tmp_path, monkeypatch, capsys, task):
    def blind(self, width, height):
        raise LspFastError("no OpenGL: install libegl1")

    monkeypatch.setattr(DmcEnv, "render_frame", blind)
    values = {**FILMED, "task": task, "train__video_every": 50}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = train(smoke(**values), tmp_path / "run", progress=False)
    said = capsys.readouterr().err
    why = "no OpenGL: install libegl1" if task == "cheetah_run" else "only dm_control tasks"
    assert result.finished and re.findall("warning: the run goes on without videos: (.*)", said)[0].find(why) >= 0
    assert said.count("without videos") == 1 and not (result.folder / "videos").exists()
