"""An experiment's file becomes runs; what is missing is run, what failed is named (`lsp-fast sweep`)."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from submitit.core.utils import FailedJobError, UncompletedJobError

from lsp_fast import machine
from lsp_fast.cli import main
from lsp_fast.config import make_config
from lsp_fast.errors import ConfigError, LspFastError
from lsp_fast.storage import checkpoint
from lsp_fast.storage.checkpoint import list_checkpoints
from lsp_fast.storage.run_folder import RunFolder
from lsp_fast.sweeps import cell as cells_module
from lsp_fast.sweeps import jobs as jobs_module
from lsp_fast.sweeps import sweep
from lsp_fast.sweeps.cell import Failed, reason
from lsp_fast.sweeps.jobs import Executors, LocalJob, NotSubmitted
from lsp_fast.training.trainer import Trainer

SMALL = """
preset = "smoke"
seeds = [0, 3]
device = "cpu"
train = { eval_every = 600, log_every = 100 }
env_steps = 1020

[[tasks]]
task = "cheetah_run"

[[methods]]
algorithm = "dreamer"

[[methods]]
algorithm = "hiro"
label = "HIRO, small"
hiro.units = 16
"""
TRANSFER = """
preset = "smoke"
device = "cpu"
env_steps = 1020

[[tasks]]
task = "walker_walk"
train.eval_every = 600

[target]
task = "walker_run"

[[methods]]
algorithm = "dreamer"

[[methods]]
algorithm = "dreamer"
target.freeze_policy = true
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="experiment.toml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_tasks_times_methods_times_seeds(write, tmp_path):
    cells = sweep.read(write(SMALL), "out", env_steps=1040, model__deter=8)
    assert [cell.folder.name for cell in cells] == [
        "cheetah_run-dreamer-0", "cheetah_run-HIRO-small-0", "cheetah_run-dreamer-3", "cheetah_run-HIRO-small-3",
    ]  # fmt: skip
    values = {"device": "cpu", "train__eval_every": 600, "train__log_every": 100, "env_steps": 1040, "model__deter": 8}
    assert cells[0].config == make_config("smoke", "dreamer", **values)
    assert cells[3].config == make_config("smoke", "hiro", seed=3, label="HIRO, small", hiro__units=16, **values)
    assert cells[3].config.method == "HIRO, small" and cells[3].source is None


def test_a_source_is_run_once_and_before_what_takes_it_over(write):
    cells = sweep.read(write(TRANSFER), "out", env_steps=1010)
    names = [cell.folder.name for cell in cells]
    assert names == [
        "walker_walk-dreamer-0",
        "walker_run-from-walker_walk-dreamer-0",
        "walker_run-from-walker_walk-dreamer-fixed-policy-0",
    ]
    assert cells[0].config.env_steps == 1020 and cells[1].config.env_steps == 1010  # a given length is the target's
    assert {cell.source for cell in cells[1:]} == {cells[0].folder}
    assert cells[2].overrides == {"task": "walker_run", "transfer__freeze_policy": True, "env_steps": 1010}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preset = ", "is not TOML"),
        ("seeds = [0]", r"at least one \[\[tasks\]\]"),
        (SMALL.replace("[[methods]]", "[[method]]"), r"at least one \[\[methods\]\]"),
        (SMALL.replace('algorithm = "hiro"', 'algorithm = "hero"'), "unknown algorithm 'hero'"),
        (SMALL.replace("hiro.units", "hiro.unit"), r"hiro\.unit'; did you mean units"),
        (SMALL.replace("hiro.units = 16", "hiro.units = 0"), r"hiro\.units = 0"),
        (SMALL.replace("cheetah_run", "cheeta_run"), "unknown task 'cheeta_run'; the nearest"),
        (SMALL.replace("[0, 3]", "[]"), "must be a list of integers"),
        (SMALL.replace("[0, 3]", "3"), "must be a list of integers"),
        (SMALL.replace("preset", "presets"), "presets"),
        (SMALL.replace('algorithm = "hiro"', 'algorithm = "dreamer"').replace('label = "HIRO, small"', ""),
         "both be called cheetah_run-dreamer-0; give one's method a label"),
        (SMALL + "target.freeze_policy = true", r"there is no \[target\]"),
        (TRANSFER.replace('task = "walker_run"', ""), r"\[target\] must name its task"),
        (TRANSFER.replace("freeze_policy", "freeze"), "freeze"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_run_says_why(write, text, message, tmp_path):
    path = write(text)
    with pytest.raises(ConfigError, match=message) as error:
        sweep.read(path, tmp_path / "out")
    assert str(path) in str(error.value) and not (tmp_path / "out").exists()
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_the_commands_own_mistakes(write, tmp_path, capsys):
    path, out = str(write(SMALL)), tmp_path / "out"
    for options, message in (
        ([str(tmp_path / "none.toml")], "cannot be read"),
        ([path, "--jobs", "0"], "jobs = 0"),
        ([path, "--set", "env_steps"], "--set env_steps: must be NAME=VALUE"),
        ([path, "--set", "env_steps=many"], "must be of type int"),
        ([path, "--cluster", "cloud"], "cloud"),
        ([path, "--submitit", "slurm_colour=1"], "slurm_colour"),
    ):
        assert main(["sweep", *options, "--out", str(out)]) == 2
        assert message in capsys.readouterr().err
    assert not list(out.rglob("config.json"))


def test_a_dry_run_lists_the_runs_and_writes_nothing(write, tmp_path, capsys):
    assert main(["sweep", str(write(SMALL)), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4 and not (tmp_path / "out").exists()


class Here(Executors):
    """Runs in this process, when they are asked what became of them."""

    def submit(self, cell, slot):
        return SimpleNamespace(outcome=lambda stopping: cell(), ask_to_end=lambda: None, waits=False)


def test_what_is_missing_is_run_and_a_failure_is_named(write, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    cells = sweep.read(write(TRANSFER), out)
    begun, train = [], cells_module.train

    def broken(config, folder, **more):
        begun.append(folder.name)
        if broken.task == config.task:
            raise LspFastError("no more")
        return train(config, folder, **more)

    monkeypatch.setattr(cells_module, "train", broken)
    monkeypatch.setattr(sweep, "executors", Here)
    broken.task = "walker_walk"
    report = sweep.run(cells, out, progress=False)
    assert begun == ["walker_walk-dreamer-0"]
    assert not report.finished and not report.left and report.figure is None
    assert "no more" in str(report) and "its source" in str(report)

    broken.task = "walker_run"
    report = sweep.run(cells, out, progress=False)
    assert len(report.finished) == 1 and len(report.failed) == 2 and report.figure.exists()
    source = {path: path.stat().st_mtime_ns for path in cells[0].folder.rglob("*")}

    broken.task, begun[:] = None, []
    report = sweep.run(cells, out, progress=False)
    assert len(report.finished) == 3 and not report.failed and len(begun) == 2
    assert RunFolder(cells[2].folder).read_config().transfer.freeze_policy
    assert source == {path: path.stat().st_mtime_ns for path in cells[0].folder.rglob("*")}

    begun[:] = []
    assert len(sweep.run(cells, out, progress=False).finished) == 3 and not begun
    longer = sweep.read(write(TRANSFER), out, env_steps=1030)
    assert [cell.finished for cell in longer] == [True, False, False]


def test_a_run_that_was_stopped_in_its_last_updates_goes_on(write, tmp_path, monkeypatch):
    """All its steps are made, as its checkpoint's number says; its last evaluation is not."""
    text = SMALL.replace("[0, 3]", "[0]").replace("1020", "1000").replace("eval_every = 600", "eval_every = 2000")
    [cell, _] = sweep.read(write(text), tmp_path / "out", train__pretrain=6)
    monkeypatch.setattr(sweep, "executors", Here)
    learn = Trainer.learn
    with monkeypatch.context() as patch:
        patch.setattr(
            Trainer, "learn", lambda self: (self.updates == 3 and os.kill(os.getpid(), signal.SIGTERM), learn(self))
        )
        report = sweep.run([cell], tmp_path / "out", progress=False)
    assert report.left == [cell] and cell.env_steps == 1000 and not cell.finished
    report = sweep.run([cell], tmp_path / "out", progress=False)
    assert report.finished == [cell] and cell.finished and report.figure.exists()
    # A checkpoint from before it said so.
    folder = RunFolder(cell.folder)
    state = checkpoint.load_latest(folder.checkpoints)
    assert state.pop("finished") is True and state["updates"] == 6
    checkpoint.save(folder.checkpoints, 1000, state)
    before = {path: path.read_bytes() for path in cell.folder.rglob("*") if path.is_file()}
    assert cell.finished and cell() == "finished"
    assert {path: path.read_bytes() for path in cell.folder.rglob("*") if path.is_file()} == before
    folder.scores.unlink()
    assert not cell.finished


TRACE = """Job (task=0) failed during processing with trace:
----------------------
Traceback (most recent call last):
  File "submission.py", line 55, in process_job
    result = delayed.result()
ModuleNotFoundError: No module named 'my_tasks'

----------------------
You can check full logs with 'job.stderr(0)' and 'job.stdout(0)'or at paths:
  - /logs/7_0_log.err
  - /logs/7_0_log.out"""


def test_a_job_that_returns_nothing_has_its_reason_told(tmp_path, monkeypatch):
    def outcome(error, stopping=False):
        job = SimpleNamespace(done=lambda: True, result=lambda: (_ for _ in ()).throw(error))
        return LocalJob(job, "local", tmp_path).outcome(stopping)

    assert outcome(FailedJobError(TRACE)) == Failed("ModuleNotFoundError: No module named 'my_tasks'")
    killed = UncompletedJobError("Job 7 has not produced any output\nCheck: /logs/7_0_log.out")
    assert "it was killed" in outcome(killed).reason
    assert outcome(killed, stopping=True) == "interrupted"  # by us, before it could listen
    monkeypatch.setattr(machine, "disk_free", lambda folder: 0)
    assert f"the disk of {tmp_path} is full" in outcome(killed).reason
    assert reason(ValueError()) == "ValueError" and len(reason(ValueError("x " * 999))) <= 300


def test_a_local_job_is_asked_to_end_by_its_public_id(tmp_path):
    process = subprocess.Popen(["sleep", "60"])
    job = SimpleNamespace(job_id=str(process.pid), done=lambda: process.poll() is not None)
    LocalJob(job, "local", tmp_path).ask_to_end()
    assert process.wait(timeout=10) == -signal.SIGTERM
    LocalJob(job, "local", tmp_path).ask_to_end()  # the number may be another process's by now


class Job:
    """Ends after some looks at it."""

    def __init__(self, cell, running):
        self.cell, self.looks, self.running = cell, 0, running
        running.add(cell.folder)

    waits = False

    def note(self):
        return None

    def outcome(self, stopping):
        self.looks += 1
        if self.looks == 3:
            self.running.discard(self.cell.folder)
            folder = RunFolder(self.cell.folder).checkpoints
            checkpoint.save(folder, self.cell.config.env_steps, {"finished": True})
        return "finished" if self.looks >= 3 else None


@pytest.mark.parametrize("jobs", [1, 2, 3, 9])
def test_at_most_so_many_at_a_time(write, tmp_path, monkeypatch, jobs):
    running, most, threads = set(), [], []

    class Fake(Executors):
        def _executor(self, folder, tasks=1):
            return None

        def submit(self, cell, slot):
            threads.append(self.threads)
            job = Job(cell, running)
            most.append(len(running))
            return job

    monkeypatch.setattr(sweep, "executors", Fake)
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0)
    monkeypatch.setattr(machine, "cores", lambda: 6)
    cells = sweep.read(write(SMALL), tmp_path)
    report = sweep.run(cells, tmp_path, jobs=jobs, progress=False)
    assert report.figure is None and "no figure" in report.warnings[0]
    assert max(most) == min(jobs, 4) and len(report.finished) == 4
    assert set(threads) == {max(1, 6 // jobs)}


def test_a_run_that_cannot_be_submitted_waits_for_another_ones_end(write, tmp_path, monkeypatch):
    running, refused = set(), []

    class Fake(Executors):
        def submit(self, cell, slot):
            if running:
                refused.append(cell.folder)
                raise NotSubmitted("no more for now")
            return Job(cell, running)

    monkeypatch.setattr(sweep, "executors", Fake)
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0)
    monkeypatch.setattr(jobs_module, "AGAIN_SECONDS", 0)
    cells = sweep.read(write(SMALL), tmp_path)
    assert len(sweep.run(cells, tmp_path, jobs=2, progress=False).finished) == 4 and refused
    running.add("another user's")
    cells = sweep.read(write(SMALL), tmp_path / "more")
    report = sweep.run(cells, tmp_path, jobs=2, progress=False)
    assert set(report.failed.values()) == {"no more for now"} and len(report.failed) == 4


@pytest.mark.slow
def test_in_processes_of_their_own_and_ctrl_c_ends_them_with_a_checkpoint(write, tmp_path):
    path, out = write(SMALL), tmp_path / "out"
    command = [sys.executable, "-m", "lsp_fast.cli", "sweep", str(path), "--out", str(out), "--jobs", "2",
               "--set", "seeds=[0]", "env_steps=200000", "train.checkpoint_every=100000"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        cells = sweep.read(path, out, env_steps=200_000)
        waiting = time.monotonic() + 120
        while time.monotonic() < waiting and min(cell.logged_env_steps for cell in cells[:2]) < 1100:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "0 of" in printed and "the same command runs these alone" in printed
    for cell in cells[:2]:
        newest = list_checkpoints(RunFolder(cell.folder).checkpoints)[-1]
        assert 1000 < int(newest.stem) < 200_000
    # A shorter aim is then reached by going on: nothing is begun anew.
    begun = min(cell.env_steps for cell in cells[:2])
    ahead = max(cell.env_steps for cell in cells[:2]) + 20
    cells = [cell for cell in sweep.read(path, out, env_steps=ahead) if cell.config.seed == 0]
    report = sweep.run(cells, out, jobs=2, progress=False)
    assert len(report.finished) == 2 and report.figure.exists() and begun > 1000
