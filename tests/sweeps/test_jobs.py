"""What the queue says of a job decides what became of its run, where the run itself gave no final answer."""

import os
import signal
import subprocess
from pathlib import Path

import cloudpickle
import pytest

from lsp_fast.config import make_config
from lsp_fast.errors import LspFastError
from lsp_fast.storage import checkpoint
from lsp_fast.storage.run_folder import RunFolder
from lsp_fast.sweeps import cell as cell_module
from lsp_fast.sweeps import jobs, slurm
from lsp_fast.sweeps.cell import Cell, Failed
from lsp_fast.sweeps.jobs import Again
from lsp_fast.sweeps.slurm import Queue, SlurmJob
from lsp_fast.training.signals import stop_on_signal


@pytest.fixture
def squeue(monkeypatch):
    """Lines that `squeue` prints; other commands are noted."""
    lines, noted = [], []

    def command(*words):
        if words[0] != "squeue":
            noted.append(" ".join(words))
        return subprocess.CompletedProcess(words, 0 if lines is not None else 1, "\n".join(lines), "")

    monkeypatch.setattr(slurm, "command", command)
    monkeypatch.setattr(slurm, "ASK_SECONDS", 0)
    monkeypatch.setattr(slurm, "GRACE_SECONDS", 0)
    return lines, noted


@pytest.fixture
def job(tmp_path):
    cell = Cell(tmp_path / "run", make_config("smoke", device="cpu"))
    (tmp_path / "logs").mkdir()
    return SlurmJob(Queue(), "7", cell, tmp_path / "logs")


def answer(job, told):
    job._paths.result_pickle.write_bytes(cloudpickle.dumps(("success", told)))


MEMORY = "its memory was not enough; ask for more with --submitit mem_gb=..."


@pytest.mark.parametrize(
    ("line", "told", "outcome"),
    [
        ("7|RUNNING|0|None|x", None, None),
        ("7|RUNNING|1|None|x", "interrupted", None),  # of the time before
        ("7|PENDING|1|BeginTime|x", "preempted", None),
        ("7|COMPLETING|0|None|x", "finished", "finished"),
        ("7|COMPLETED|0|None|x", "interrupted", "interrupted"),
        ("7|FAILED|0|None|x", "preempted", Again("the cluster asked it to end")),
        ("7|PREEMPTED|0|None|x", "interrupted", Again("the cluster took its node away")),
        ("7|NODE_FAIL|0|None|x", None, Again("its node failed")),
        ("7|CANCELLED|0|None|x", "interrupted", "cancelled"),
        ("7|OUT_OF_MEMORY|0|None|x", None, Failed(MEMORY)),
        ("7|FAILED|0|None|x", None, Failed("its process ended without a result; Slurm says FAILED")),
        ("8|RUNNING|0|None|x", None, Failed("its process ended without a result; Slurm says GONE")),
    ],
)  # fmt: skip
def test_the_queue_decides(squeue, job, line, told, outcome):
    squeue[0].append(line)
    if told:
        answer(job, told)
    assert job.outcome(False) == outcome


def test_a_job_whose_time_was_over_begins_again_only_if_it_came_further(squeue, job, tmp_path):
    squeue[0].append("7|TIMEOUT|0|None|x")
    assert "ask for more with --submitit timeout_min" in job.outcome(False).reason
    checkpoint.save(RunFolder(tmp_path / "run").checkpoints, 500, {})
    assert job.outcome(False) == Again("its time was over")


def test_what_is_asked_to_end(squeue, job):
    lines, noted = squeue
    for line in ("7|RUNNING|0|None|x", "7|PENDING|1|BeginTime|x", "7|PREEMPTED|1|None|x", "7|COMPLETED|1|None|x"):
        lines[:] = [line]
        job.ask_to_end()
    assert noted == ["scancel --signal=TERM 7", "scancel 7", "scancel 7"]


def test_only_a_job_that_answered_is_spared_slurms_wait(squeue, job):
    lines, noted = squeue
    lines[:] = ["7|PENDING|1|BeginTime|x"]
    assert job.outcome(False) is None and not noted  # its node died
    answer(job, "interrupted")
    assert job.outcome(False) is None and job.outcome(False) is None
    assert noted == ["scontrol update JobId=7 StartTime=now"]


def test_where_slurm_does_not_answer_jobs_stay_as_they_were(monkeypatch, job):
    monkeypatch.setattr(slurm, "ASK_SECONDS", 0)
    monkeypatch.setattr(slurm, "command", lambda *words: subprocess.CompletedProcess(words, 1, "", "no controller\n"))
    job._queue.add("7")
    assert job.outcome(False) is None and job.note() == "Slurm does not answer: no controller"
    hands = object.__new__(slurm.Slurm)
    hands._queue, hands.out = Queue(), Path("out")
    with pytest.raises(LspFastError, match="Slurm does not answer: no controller"):
        hands.begun([])


def test_a_command_that_is_missing_or_hangs_is_an_answer_too(monkeypatch):
    assert slurm.command("no-such-command").stderr == "no-such-command: No such file or directory"
    monkeypatch.setattr(slurm, "COMMAND_SECONDS", 0.1)
    assert "takes longer than 0.1 s" in slurm.command("sleep", "5").stderr


def test_a_run_that_never_makes_a_step_does_not_come_back_for_ever(monkeypatch):
    asked, done = [], subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(cell_module.subprocess, "run", lambda words, **more: asked.append(words) or done)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert cell_module._come_back(False) == "preempted"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    assert cell_module._come_back(True) == "preempted" and asked == [["scontrol", "requeue", "7"]] * 2
    assert "timeout_min" in cell_module._come_back(False).reason and len(asked) == 2
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert cell_module._come_back(True) == "preempted" and len(asked) == 2  # the first task does it


def test_a_job_takes_as_many_threads_as_it_was_given_processors(monkeypatch):
    monkeypatch.setattr(cell_module.machine, "cores", lambda: 8)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "6")
    config = make_config("smoke", device="cpu", threads=0)
    assert cell_module._with_share_of_node(config).threads == 6
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    assert cell_module._with_share_of_node(config).threads == 1
    assert cell_module._with_share_of_node(make_config("smoke", device="cpu", threads=3)).threads == 3


def test_a_job_hears_the_warning_from_its_beginning():
    before = signal.signal(signal.SIGUSR2, lambda *_: None)  # as submitit does
    try:
        with stop_on_signal() as stop:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert not stop.asked
        with stop_on_signal(signal.SIGUSR2):
            os.kill(os.getpid(), signal.SIGUSR2)
            with stop_on_signal() as stop:  # training begins
                assert stop.asked and stop.signals == {signal.SIGUSR2}
        with stop_on_signal() as stop:
            assert not stop.asked and not stop.signals
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_run_of_several_processes_gets_as_many_gpus_and_its_share_of_the_cores(tmp_path, monkeypatch):
    given = []

    class Executor:
        def __init__(self, folder, cluster):
            self.parameters = {}

        def update_parameters(self, **values):
            self.parameters |= values

        def submit(self, cell):
            given.append((cell.config.threads, self.parameters.get("local_visible_gpus")))

    monkeypatch.setattr(jobs.submitit, "AutoExecutor", Executor)
    monkeypatch.setattr(jobs, "_gpus", lambda: 4)
    monkeypatch.setattr(jobs.machine, "cores", lambda: 16)
    hands = jobs.Executors(tmp_path, 2, "local", {})
    for slot, processes in enumerate((1, 2, 2)):
        config = make_config("smoke", processes=processes, collect__num_envs=2, threads=0)
        hands.submit(Cell(tmp_path / str(slot), config), slot)
    assert given == [(8, (0,)), (4, (2, 3)), (4, (0, 1))]
