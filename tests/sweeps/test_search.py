"""A file's [search] has Optuna propose values and prune; what was tried lies beside the runs and is gone on with."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import ClassVar

import pytest

from lsp_fast.cli import main
from lsp_fast.errors import ConfigError, LspFastError
from lsp_fast.storage import checkpoint
from lsp_fast.storage.run_folder import RunFolder
from lsp_fast.sweeps import search, sweep
from lsp_fast.sweeps.cell import Failed
from lsp_fast.sweeps.jobs import Executors

optuna = pytest.importorskip("optuna", reason="Optuna is not installed (pip install 'lsp_fast[search]')")

FILE = """
preset = "smoke"
seeds = [0, 1]
device = "cpu"
env_steps = 1040
train = { eval_every = 20, log_every = 100 }

[[tasks]]
task = "cheetah_run"

[[methods]]
algorithm = "dreamer"

[search]
trials = 8
pruner = { name = "median", n_startup_trials = 2 }

[search.values]
model.learning_rate = { low = 1e-4, high = 1e-2, log = true }
behavior.horizon = { low = 2, high = 6 }
model.deter = [8, 16]
"""


@pytest.fixture
def write(tmp_path):
    def write(text=FILE):
        (tmp_path / "file.toml").write_text(text)
        return tmp_path / "file.toml"

    return write


class Pretended(Executors):
    """Runs whose returns are their horizons: one more evaluation, and 20 steps, at every look."""

    started: ClassVar[list] = []

    def submit(self, cell, slot):
        self.started.append(cell)
        folder, xs, asked = RunFolder(cell.folder), [], []
        folder.claim(cell.config)
        folder.release()

        def outcome(stopping):
            if asked:
                checkpoint.save(folder.checkpoints, xs[-1] if xs else 0, {"finished": False})
                return "interrupted"
            xs.append(1000 + 20 * len(xs))
            row = {"xs": xs, "ys": [float(cell.config.behavior.horizon + cell.config.seed)] * len(xs)}
            folder.scores.write_text(json.dumps([row]))
            if xs[-1] < cell.config.env_steps:
                return None
            checkpoint.save(folder.checkpoints, cell.config.env_steps, {"finished": True})
            return "finished"

        return SimpleNamespace(outcome=outcome, ask_to_end=lambda: asked.append(1), note=lambda: None, waits=False)


def test_a_storage_that_cannot_be_used_is_named(write, tmp_path, pretended):
    (tmp_path / search.DATABASE).write_text("no database, and longer than SQLite's own head of a hundred bytes " * 9)
    with pytest.raises(LspFastError, match=r"search\.db cannot be used: .*not a database"):
        search.run(search.read(write(), tmp_path), tmp_path, progress=False)


@pytest.fixture
def pretended(monkeypatch):
    class Fresh(Pretended):
        started: ClassVar[list] = []

    monkeypatch.setattr(sweep, "executors", Fresh)
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0)
    return Fresh


@pytest.mark.parametrize("jobs", [1, 3])
def test_scores_are_means_and_the_hopeless_are_pruned(write, tmp_path, pretended, jobs):
    tmp_path /= "out"
    found = search.read(write(), tmp_path)
    report = search.run(found, tmp_path, jobs=jobs, progress=False)
    assert report.scored + report.pruned == 8 and report.pruned and not report.left and not report.failed
    study = optuna.load_study(study_name=search.STUDY, storage=f"sqlite:///{tmp_path / search.DATABASE}")
    scored = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert all(trial.value == trial.params["behavior.horizon"] + 0.5 for trial in scored)
    assert report.best == max(trial.value for trial in scored)
    assert report.values == study.best_trial.params and str(report).startswith(f"{report.scored} trials are scored")
    for trial in study.trials:
        for seed in (0, 1):
            config = RunFolder(tmp_path / f"trial-{trial.number:04}" / f"cheetah_run-dreamer-{seed}").read_config()
            assert config.behavior.horizon == trial.params["behavior.horizon"] and config.seed == seed
            assert config.model.deter == trial.params["model.deter"] in (8, 16)
            assert 1e-4 <= config.model.learning_rate == trial.params["model.learning_rate"] <= 1e-2
    before = len(pretended.started)
    assert search.run(found, tmp_path, progress=False) == report and len(pretended.started) == before


def test_what_was_interrupted_is_gone_on_with_and_more_can_be_asked_for(write, tmp_path, pretended, monkeypatch):
    found = search.read(write(FILE.replace("trials = 8", "trials = 2")), tmp_path)
    follow, looks = search._follow, []

    def then_stop(*arguments):
        looks.append(1)
        if len(looks) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        follow(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(search, "_follow", then_stop)
        report = search.run(found, tmp_path, jobs=2, progress=False)
    assert report.left == 2 and not report.scored and "the same command goes on" in str(report)
    report = search.run(found, tmp_path, jobs=2, progress=False)
    assert report.scored == 2 and not report.left
    folders = [cell.folder for cell in pretended.started]
    assert len(folders) == 6 and len(set(folders)) == 4  # two runs were begun twice, with the values they had
    more = search.read(write(), tmp_path)
    report = search.run(more, tmp_path, progress=False)
    assert report.scored + report.pruned == 8
    horizons = [trial.params for trial in search.Trials(more, tmp_path).study.trials]
    assert len({json.dumps(values) for values in horizons}) == 8  # nothing is proposed twice


def test_a_score_at_a_step(write, tmp_path, pretended):
    found = search.read(write(FILE.replace("trials = 8", "trials = 1\nat = 1025")), tmp_path)
    report = search.run(found, tmp_path, progress=False)
    [trial] = search.Trials(found, tmp_path).study.trials
    assert list(trial.intermediate_values) == [1000, 1020] and report.scored == 1


def test_a_run_that_fails_fails_its_trial_alone(write, tmp_path, monkeypatch, pretended):
    def submit(self, cell, slot):
        if "trial-0001" in str(cell.folder):
            return SimpleNamespace(outcome=lambda stopping: Failed("no more"), waits=False)
        return Pretended.submit(self, cell, slot)

    monkeypatch.setattr(pretended, "submit", submit)
    report = search.run(search.read(write(), tmp_path), tmp_path, progress=False)
    assert [folder.parent.name for folder in report.failed] == ["trial-0001"]
    assert "no more" in str(report) and report.scored + report.pruned == 7


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("trials = 8", "trials = 0", "trials = 0"),
        ("trials = 8", "trails = 8", "trails is none of"),
        ("trials = 8", "at = 2000", "at = 2000: runs end at 1040"),
        ('name = "median"', 'name = "mean"', "name one of median"),
        ("n_startup_trials", "startup", "startup"),
        ("high = 6", "height = 6", "behavior.horizon"),
        ("low = 2", "low = 8", "low"),
        ("low = 2", "low = 0", "behavior.horizon = 0"),
        ("[8, 16]", "8", "model.deter = 8: must be"),
        ("model.deter", "model.depth", "model.depth"),
        ("model.deter", "seed", "seed"),
        ("[search]", '[target]\ntask = "walker_run"\n[search]', r"knows no \[target\]"),
    ],
)
def test_a_search_that_cannot_be_made_says_why(write, tmp_path, before, after, message):
    with pytest.raises(ConfigError, match=message):
        search.read(write(FILE.replace(before, after)), tmp_path / "out")
    assert main(["sweep", str(tmp_path / "file.toml"), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_another_searchs_folder_is_refused(write, tmp_path, pretended):
    search.run(search.read(write(FILE.replace("trials = 8", "trials = 1")), tmp_path), tmp_path, progress=False)
    with pytest.raises(ConfigError, match="over other values; name another --out"):
        search.run(search.read(write(FILE.replace("model.deter", "model.stoch")), tmp_path), tmp_path, progress=False)
    with pytest.raises(ConfigError, match="is searched and cannot be given"):
        search.read(write(), tmp_path, model__deter=8)


# The second trial is pruned as soon as it has a score.
COMMAND = """
import sys
import optuna
from lsp_fast.cli import main
optuna.pruners.MedianPruner.prune = lambda self, study, trial: trial.number == 1
sys.exit(main(["sweep", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_a_search_in_processes_of_their_own(write, tmp_path):
    """Interrupted, it is taken up by the same command; what is pruned ends with a checkpoint."""
    text = FILE.replace("trials = 8", "trials = 3").replace("seeds = [0, 1]", "seeds = [0]")
    command = [sys.executable, "-c", COMMAND, str(write(text)), "--jobs", "2", "--out", str(tmp_path / "out"),
               "--set", "env_steps=5000", "train.eval_every=500"]  # fmt: skip
    begun = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list((tmp_path / "out").glob("trial-0000/*/scores.json")) and time.monotonic() < until:
        time.sleep(0.2)
    begun.send_signal(signal.SIGINT)
    assert begun.wait(timeout=60) == 130
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert "2 trials are scored, 1 were pruned" in done.stdout and "to do" not in done.stdout
    with sqlite3.connect(tmp_path / "out" / search.DATABASE) as database:
        states = database.execute("select state from trials order by number").fetchall()
    assert states == [("COMPLETE",), ("PRUNED",), ("COMPLETE",)]
    [pruned] = (tmp_path / "out" / "trial-0001").iterdir()
    newest = checkpoint.list_checkpoints(RunFolder(pruned).checkpoints)[-1]
    assert 1000 <= int(newest.stem) < 5000
