"""Several processes where one fails, and the commands that start them."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from several_processes import TASK, config, in_the_second, start, together_call, trained

from lsp_fast import processes
from lsp_fast.errors import ConfigError, EnvironmentFailed, ProcessLost
from lsp_fast.evaluate import Evaluator
from lsp_fast.training import together
from lsp_fast.training.run import Result

# Where one fails.


def fails_in_one(c, folder):
    if processes.invited_rank() == 1:
        from gymnasium.envs.classic_control import PendulumEnv

        step, made = PendulumEnv.step, []

        def broken(self, action):
            made.append(1)
            if len(made) == 420:
                raise RuntimeError("a wire came off")
            return step(self, action)

        PendulumEnv.step = broken
    return trained(c, folder)


def test_an_environment_that_fails_in_one_ends_all_with_a_checkpoint(tmp_path):
    found = together_call(fails_in_one, config(), tmp_path)
    assert [kind for kind, *_ in found] == ["EnvironmentFailed"] * 2
    for _, message, _ in found:
        assert "a wire came off" in message and re.search(r"000000\d+\.pt is from before it; the same command", message)
    assert sum(tells for *_, tells in found) == 1
    # The step that one of them failed in counts for the other.
    assert together_call(trained, config(), tmp_path)[0][0] in (1100, 1102)


def holds(c, folder, how):
    """Train; the second process is killed, or stops, once there is a checkpoint."""
    in_the_second(900, lambda collector: os.kill(os.getpid(), how))
    return trained(c, folder)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (signal.SIGKILL, r"process 1 \(\d+\) has ended"),
        (signal.SIGSTOP, r"process 1 \(\d+\) does not answer \(3 seconds\)"),
    ],
)
def test_one_that_is_killed_or_hangs_is_named_and_ends_all(tmp_path, how, said):
    c = config(process_timeout=3.0)
    begun, answers = start(holds, c, tmp_path, how)
    rank, (kind, message, tells) = answers.get(timeout=60)
    assert (rank, kind, tells) == (0, "ProcessLost", True)
    assert re.search(said, message) and re.search(r"000000\d+\.pt is whole, and the same command goes on", message)
    for process in begun:
        process.join(10)
    assert begun[1].exitcode == -signal.SIGKILL, "one that hangs is not left behind"
    assert together_call(trained, config(), tmp_path)[0][0] == 1100


def test_of_four_the_one_that_was_killed_is_named(tmp_path):
    c = config(processes=4, collect__num_envs=4, env_steps=1900, process_timeout=20.0)
    begun, answers = start(holds, c, tmp_path, signal.SIGKILL, count=4)
    said = [answers.get(timeout=60)[1] for _ in range(3)]
    for process in begun:
        process.join(10)
    [(_, message, _)] = [answer for answer in said if answer[2]]
    assert re.match(r"process 1 \(\d+\) has ended; the checkpoint", message)


def fails_to_evaluate(c, folder):
    def raises(self, agent, seed):
        raise EnvironmentFailed("the camera is off")

    if processes.invited_rank() == 0:
        Evaluator.run_agent = raises
    return trained(c, folder)


def test_an_evaluation_that_fails_ends_all_with_a_checkpoint(tmp_path):
    found = together_call(fails_to_evaluate, config(), tmp_path)
    assert [kind for kind, *_ in found] == ["EnvironmentFailed"] * 2
    assert all("the camera is off" in message and "600.pt is from before it" in message for _, message, _ in found)
    assert together_call(trained, config(), tmp_path)[0][0] == 1100


def drifts(c, folder):
    def moved(collector):
        with torch.no_grad():
            next(collector.agent.modules.parameters()).add_(1e-3)

    in_the_second(700, moved)
    return trained(c, folder)


def test_weights_that_differ_are_not_saved(tmp_path):
    found = together_call(drifts, config(), tmp_path)
    assert all("weights are no longer the same" in message for _, message, _ in found)
    assert sorted(p.name for p in tmp_path.glob("checkpoints/*")) == ["000000600.pt"]


def differs(c, folder, other):
    return trained(other if processes.invited_rank() else c, folder)


def test_processes_of_two_configurations_are_refused(tmp_path):
    found = together_call(differs, config(), tmp_path, config(behavior__gamma=0.9))
    for kind, message, _ in found:
        assert kind == "ConfigError" and "behavior.gamma is 0.99 in the first process and 0.9 in process 1" in message
    assert list(tmp_path.iterdir()) == []


# The commands.


def command(*argv, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


GIVEN = [
    "--preset",
    "smoke",
    "--task",
    TASK,
    "--device",
    "cpu",
    "--collect.num-envs",
    "2",
    "--train.eval-every",
    "5000",
]


def test_one_command_starts_them_passes_a_signal_on_and_goes_on(tmp_path):
    argv = ["-m", "lsp_fast.cli", "train", *GIVEN, "--processes", "2", "--logdir", str(tmp_path / "run")]
    process = command(*argv, "--env-steps", "400000")
    rows = tmp_path / "run" / "metrics.jsonl"
    until = time.monotonic() + 60
    while not (rows.exists() and len(rows.read_text().splitlines()) > 3) and time.monotonic() < until:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in said, errors
    assert "Traceback" not in errors
    steps = int(re.search(r"interrupted at (\d+)", said)[1])
    process = command(*argv, "--env-steps", str(steps + 200))
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and f"at {steps + 200} environment steps" in said, errors


def test_where_the_command_is_killed_the_processes_end(tmp_path):
    argv = ["-m", "lsp_fast.cli", "train", *GIVEN, "--processes", "2", "--logdir", str(tmp_path / "run")]
    process = command(*argv, "--env-steps", "400000")
    until = time.monotonic() + 60
    while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.2)
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True)
    pids = [int(line.split()[0]) for line in listed.stdout.splitlines() if "lsp_fast.training.process" in line]
    assert len(pids) == 2
    process.kill()
    process.communicate(timeout=60)
    until = time.monotonic() + 30
    while any(processes._running(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.2)
    assert not any(processes._running(pid) for pid in pids)


def test_what_is_refused_is_told_once_in_a_line(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").write_text("")
    process = command("-m", "lsp_fast.cli", "train", *GIVEN, "--processes", "2", "--logdir", str(tmp_path / "x"))
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and said == ""
    assert errors.splitlines()[-1].startswith("lsp-fast: ") and errors.count("is not empty and holds no run") == 1


def test_torchrun_starts_them_too(tmp_path):
    argv = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "lsp_fast.cli", "train"]
    process = command(*argv, *GIVEN, "--env-steps", "1300", "--logdir", str(tmp_path / "run"))
    said, errors = process.communicate(timeout=90)
    assert process.returncode == 0 and said.count("at 1300 environment steps") == 1, errors
    assert json.loads((tmp_path / "run" / "config.json").read_text())["processes"] == 2


def test_torchruns_number_and_ours_must_agree(monkeypatch):
    monkeypatch.setattr(processes, "invited", lambda: 4)
    assert together.invite(config(processes=1)).processes == 4
    with pytest.raises(ConfigError, match="processes = 2: torchrun started 4"):
        together.invite(config())


def test_a_result_survives_the_way_to_the_command(tmp_path):
    result = Result(1, 2, 0, None, True, tmp_path, tmp_path / "c", tmp_path / "s", None)
    assert together.from_answer(json.loads(json.dumps(together.to_answer(result)))) == result
    with pytest.raises(EnvironmentFailed, match="fell"):
        together.from_answer({"error": "EnvironmentFailed", "message": "it fell"})
    with pytest.raises(ProcessLost):
        together.from_answer({"error": "ProcessLost", "message": "it is gone"})
