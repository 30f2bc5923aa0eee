"""Sweeps on a real Slurm of one node, which the tests start themselves (`tests/one_node.py`): what a user sees where a
job is preempted, cancelled, fails, or loses its node, its time, its disk or the terminal that began it.
"""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from one_node import OneNode, missing

from lsp_fast.storage.checkpoint import list_checkpoints
from lsp_fast.storage.metrics import read_rows
from lsp_fast.sweeps import sweep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.slurm,
    pytest.mark.skipif(bool(missing()), reason=f"Slurm is not installed here: no {', '.join(missing())}"),
]
FILE = """
preset = "smoke"
seeds = [0]
device = "cpu"
env_steps = 1200
train = { eval_every = 600, log_every = 100, checkpoint_every = 1000000 }

[[tasks]]
task = "cheetah_run"

[[methods]]
algorithm = "dreamer"
"""
# The queue is looked at more often than on a cluster that others use, too.
COMMAND = """
import sys
from lsp_fast.cli import main
from lsp_fast.sweeps import slurm
slurm.ASK_SECONDS, slurm.GRACE_SECONDS = 1, 3
sys.exit(main(["sweep", *sys.argv[1:], "--cluster", "slurm"]))
"""
SECONDS = 120


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    before = dict(os.environ)
    one = OneNode(tmp_path_factory.mktemp("slurm"))
    try:
        one.__enter__()
    except (RuntimeError, OSError) as error:  # a container may lack the rights, or a name for itself
        os.environ.clear()
        os.environ.update(before)
        pytest.skip(f"a Slurm of one node does not start here: {error}")
    try:
        yield one
    finally:
        one.__exit__()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(autouse=True)
def idle(node):
    yield
    subprocess.run(["scancel", f"--user={os.getuid()}"], check=False)
    until(lambda: not node.jobs())


@pytest.fixture
def begin(node, tmp_path):
    """Begin a sweep in a process of its own."""
    file, begun = tmp_path / "file.toml", []
    file.write_text(FILE)

    def begin(*options, text=None, out=tmp_path / "out"):
        if text is not None:
            file.write_text(text)
        command = [sys.executable, "-c", COMMAND, str(file), "--out", str(out), *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        begun.append(process)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.wait()


def until(reached, seconds=SECONDS):
    end = time.monotonic() + seconds
    while not (value := reached()):
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.2)
    return value


def end(process, status):
    """What the sweep printed, its progress bar included, once it has ended."""
    printed, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == status, printed + errors
    return printed, errors


def cell(tmp_path, **values):
    return sweep.read(tmp_path / "file.toml", tmp_path / "out", **values)[0]


def state(node, number=0):
    """Of a job of ours; of the oldest one as a rule."""
    jobs = sorted(node.jobs())
    return jobs[number][1] if len(jobs) > number else None


def learns(run, steps=1500):
    return lambda: run.logged_env_steps >= steps


LONG = ("--set", "env_steps=1000000")


def take_node(seconds):
    """Begin a job of another partition, which preempts ours."""
    script = f"#!/bin/bash\nexec sleep {seconds}\n"
    subprocess.run(["sbatch", "-p", "urgent", "-c", "2", "-o", "/dev/null"], input=script, text=True, check=True)


def test_a_sweep_shows_nothing_of_slurm(begin, node, tmp_path):
    printed, errors = end(begin("--jobs", "2", "--set", "seeds=[0,1,2]"), 0)
    assert "3 of 3 runs are finished" in printed and (tmp_path / "out" / sweep.FIGURE).exists()
    assert "sacct" not in errors and "submitit" not in errors and "WARN" not in errors
    assert printed.count("finished") == 4


def test_a_preempted_run_loses_no_step_and_goes_on_as_soon_as_it_may(begin, node, tmp_path):
    process = begin("--set", "env_steps=12000")
    run = until(lambda: (tmp_path / "out").exists() and cell(tmp_path, env_steps=12000))
    until(learns(run))
    take_node(5)
    until(lambda: state(node) == "PENDING", 40)
    [kept] = {int(path.stem) for path in list_checkpoints(run.folder / "checkpoints")} - {1000}
    assert kept >= 1500
    freed = time.monotonic()
    until(lambda: state(node) == "RUNNING")
    assert time.monotonic() - freed < 30  # Slurm alone waits two minutes
    printed, errors = end(process, 0)
    assert "was put into the queue again" in printed + errors and "1 of 1 runs are finished" in printed
    rows = [row["env_steps"] for row in read_rows(run.folder / "metrics.jsonl") if "updates" in row]
    assert rows == sorted(set(rows)) and rows[-1] == 12000


def test_a_job_that_is_requeued_by_hand_goes_on_too(begin, node, tmp_path):
    process = begin("--set", "env_steps=9000")
    run = until(lambda: (tmp_path / "out").exists() and cell(tmp_path, env_steps=9000))
    until(learns(run))
    subprocess.run(["scontrol", "requeue", node.jobs()[0][0]], check=True)
    printed, errors = end(process, 0)
    assert "was put into the queue again" in printed + errors and "1 of 1 runs are finished" in printed
    rows = [row["env_steps"] for row in read_rows(run.folder / "metrics.jsonl") if "updates" in row]
    assert rows == sorted(set(rows)) and rows[-1] == 9000


def test_ctrl_c_also_ends_what_was_preempted_and_waits(begin, node, tmp_path):
    process = begin(*LONG)
    run = until(lambda: (tmp_path / "out").exists() and cell(tmp_path))
    until(learns(run))
    take_node(60)
    until(lambda: state(node) == "PENDING")
    process.send_signal(signal.SIGINT)
    printed, _ = end(process, 130)
    assert "to do" in printed and [name for _, name in node.jobs()] == ["RUNNING"]  # the other one's
    assert run.env_steps >= 1500


def test_ctrl_c_ends_what_runs_with_a_checkpoint_and_what_waits_without(begin, node, tmp_path):
    process = begin("--jobs", "3", "--set", "env_steps=1000000", "seeds=[0,1,2]")
    runs = until(lambda: (tmp_path / "out").exists() and sweep.read(tmp_path / "file.toml", tmp_path / "out",
                                                                    seeds=[0, 1, 2]))  # fmt: skip
    until(lambda: all(run.logged_env_steps >= 1500 for run in runs[:2]))
    process.send_signal(signal.SIGINT)
    printed, errors = end(process, 130)
    assert not node.jobs() and "every run ends with a checkpoint" in printed + errors
    assert [run.env_steps >= 1500 for run in runs] == [True, True, False] and printed.count("to do") == 3


def test_at_its_times_end_a_run_puts_itself_into_the_queue(begin, node, tmp_path):
    """Slurm warns of a limit by a signal; here it comes earlier. No sweep needs to be there."""
    process = begin("--set", "env_steps=12000")
    run = until(lambda: (tmp_path / "out").exists() and cell(tmp_path, env_steps=12000))
    until(learns(run))
    process.kill()
    [(job, _)] = node.jobs()
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    until(lambda: state(node) == "PENDING", 40)
    assert run.env_steps >= 1500
    printed, errors = end(begin("--set", "env_steps=12000"), 0)
    assert "is in the queue already" in printed + errors and "1 of 1 runs are finished" in printed
    assert [path.name for path in (tmp_path / "out").rglob("*_submitted.pkl")] == [f"{job}_submitted.pkl"]


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_without_its_terminal_a_sweep_is_taken_up_again(begin, node, tmp_path, signum):
    process = begin("--set", "env_steps=6000")
    until(lambda: state(node) == "RUNNING")
    jobs = node.jobs()
    process.send_signal(signum)
    printed, _ = end(process, -signum if signum == signal.SIGKILL else 130)
    assert node.jobs() == jobs and ("queued " in printed) == (signum != signal.SIGKILL)
    printed, errors = end(begin("--set", "env_steps=6000"), 0)
    assert "is in the queue already" in printed + errors and "1 of 1 runs are finished" in printed
    assert len(list((tmp_path / "out").rglob("*_submitted.pkl"))) == 1


def test_scancel_ends_a_run_with_a_checkpoint_and_is_not_worked_against(begin, node, tmp_path):
    process = begin(*LONG)
    run = until(lambda: (tmp_path / "out").exists() and cell(tmp_path))
    until(learns(run))
    subprocess.run(["scancel", node.jobs()[0][0]], check=True)
    printed, errors = end(process, 130)
    assert "min  cancelled" in printed + errors and "to do" in printed and run.env_steps >= 1500


def test_a_node_that_dies_gives_its_run_back(begin, node, tmp_path):
    process = begin("--set", "env_steps=60000", "train.checkpoint_every=2000")
    run = until(lambda: (tmp_path / "out").exists() and cell(tmp_path, env_steps=60000))
    until(lambda: run.env_steps >= 4000)
    node.die()
    kept = run.env_steps
    until(lambda: state(node) == "PENDING")
    time.sleep(2)
    node.start_node()
    # Slurm waits two minutes after a node's failure; a sweep does not shorten that (see SlurmJob).
    time.sleep(2)
    subprocess.run(["scontrol", "update", f"JobId={node.jobs()[0][0]}", "StartTime=now"], check=True)
    until(lambda: run.env_steps > kept)
    process.send_signal(signal.SIGINT)
    printed, errors = end(process, 130)
    assert "was put into the queue again" in printed + errors
    log = next((tmp_path / "out" / "logs").rglob("*_log.err")).read_text()
    assert "Traceback" not in log


def test_a_run_that_fails_or_is_killed_says_why(begin, node, tmp_path):
    broken = '\n[[tasks]]\ntask = "gym:nowhere:Broken-v0"\n\n[[methods]]'
    process = begin("--jobs", "2", *LONG, text=FILE.replace("\n[[methods]]", broken))
    run = until(lambda: (tmp_path / "out").exists() and cell(tmp_path))
    until(learns(run))
    until(lambda: len(node.jobs()) == 1)
    [task] = node.tasks(node.jobs()[0][0])
    os.kill(task, signal.SIGKILL)
    printed, _ = end(process, 1)
    assert re.search(r"failed .*nowhere.*: .*nowhere", printed)
    assert re.search(r"failed .*cheetah.*: its process ended without a result; Slurm says FAILED \(log in", printed)


def test_a_disk_that_is_full_is_named(begin, node, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", disk], capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    try:
        process = begin("--set", "env_steps=40000", out=disk / "out")
        [run] = until(lambda: (disk / "out").exists() and sweep.read(tmp_path / "file.toml", disk / "out"))
        until(learns(run))
        (disk / "hog").open("wb", buffering=0).write(bytes(2**25))
        printed, errors = end(process, 1)
    finally:
        until(lambda: not node.jobs())
        subprocess.run(["umount", disk], check=True)
    assert re.search(r"failed .*(No space left on device|is full)", printed), printed + errors


def test_what_slurm_refuses_or_holds_is_said(begin, node, tmp_path):
    printed, _ = end(begin("--submitit", "slurm_partition=nowhere"), 1)
    assert re.search(r"failed .*not submitted: .*Invalid partition", printed)
    process = begin("--submitit", 'slurm_additional_parameters={"hold": true}')
    until(lambda: state(node) == "PENDING")
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    printed, errors = end(process, 130)
    assert "waits in the queue: JobHeldUser" in printed + errors and not node.jobs()


def test_several_processes_are_tasks_of_one_job(begin, node, tmp_path):
    values = ("processes=2", "collect.num_envs=2", "env_steps=1000000")
    process = begin("--set", *values)
    run = until(lambda: (tmp_path / "out").exists() and cell(tmp_path, processes=2, collect__num_envs=2))
    until(learns(run))
    assert len(node.tasks(node.jobs()[0][0])) == 2
    process.send_signal(signal.SIGINT)
    end(process, 130)
    kept = run.env_steps
    assert kept >= 1500
    printed, _ = end(begin("--set", *values[:2], f"env_steps={kept + 200}"), 0)
    assert "1 of 1 runs are finished" in printed
    script = next((tmp_path / "out").rglob("*_submission.sh")).read_text()
    assert "#SBATCH --ntasks-per-node=2" in script and "#SBATCH --requeue" in script


def test_a_search_finds_its_runs_in_the_queue(begin, node, tmp_path):
    pytest.importorskip("optuna", reason="Optuna is not installed (pip install 'lsp_fast[search]')")
    text = FILE + "[search]\ntrials = 3\n[search.values]\nbehavior.horizon = { low = 2, high = 6 }\n"
    process = begin("--jobs", "2", "--set", "env_steps=4000", text=text)
    until(lambda: len(node.jobs()) == 2)
    jobs = node.jobs()
    process.kill()
    printed, errors = end(begin("--jobs", "2", "--set", "env_steps=4000"), 0)
    assert "trial-0000/cheetah_run-dreamer-0  is in the queue already" in printed + errors
    assert "3 trials are scored" in printed and "best" in printed
    submitted = {path.name.partition("_")[0] for path in (tmp_path / "out").rglob("*_submitted.pkl")}
    assert len(submitted) == 3 and {job for job, _ in jobs} < submitted
