"""Machines as people have them, where a row cannot say it: streams, signals, caches, cores."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from cases.table import SHORT

import lsp_fast
import lsp_fast.sweeps.sweep  # submitit sets logging up anew, which must not happen while a test's streams stand in
from lsp_fast import files, machine, terminal, threads
from lsp_fast.cli import main
from lsp_fast.commands import COMMANDS
from lsp_fast.errors import ConfigError
from lsp_fast.njit import njit
from lsp_fast.reports import doctor
from lsp_fast.training.signals import stop_on_signal
from lsp_fast.training.trainer import Trainer

LSP_FAST = f"{sys.executable} -m lsp_fast"
TRAIN = f"train {SHORT} --logdir run --task gym:Pendulum-v1"


def shell(line):
    environment = {**os.environ, "PYTHONPATH": str(Path(lsp_fast.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment)


# Outputs


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        ("--version > /dev/full", 2, "lsp-fast: standard output cannot be written: No space left on device"),
        ("plot --help > /dev/full", 2, "lsp-fast: standard output cannot be written: No space left on device"),
        ("--help >&-", 0, ""),
        ("plot nowhere >&-", 2, "lsp-fast: nowhere"),
        ("plot nowhere 2>&-", 2, ""),
        ("plot nowhere 2> /dev/full", 2, ""),
        ("plot nowhere <&- >&- 2>&-", 2, ""),
    ],
)
def test_a_stream_that_is_closed_or_full_is_a_line_at_most(line, status, told):
    done = shell(f"{LSP_FAST} {line}")
    assert done.returncode == status and done.stderr.startswith(told) and done.stderr.count("\n") <= 1, done.stderr


def test_every_commands_help_may_be_read_in_part():
    lines = [f"{LSP_FAST} {name} --help | sleep 0; echo ${{PIPESTATUS[0]}}" for name in ("", *COMMANDS)]
    done = shell("; ".join(lines))
    assert (done.stdout, done.stderr) == ("141\n" * len(lines), "")


@pytest.mark.parametrize("streams", ["2>&1 | head -c 1", pytest.param("<&- >&- 2>&-", marks=pytest.mark.slow)])
def test_training_goes_on_when_nobody_reads(streams, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = shell(f"{LSP_FAST} {TRAIN} {streams}")
    assert done.returncode == 0 and done.stderr == ""  # of a pipe: head's
    assert list(Path("run/checkpoints").glob("*1000.pt")) and Path("run/learning_curve.png").exists()
    # No library wrote into a file that took the place of a closed stream.
    assert all(line.startswith("{") for line in Path("run/metrics.jsonl").read_text().splitlines())


class Answers(io.StringIO):
    """A stream that answers with an errno."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


def test_standard_error_stays_open_whoever_closes_what_it_took_for_it(capfd):
    """absl's handler closes its stream where logging is configured anew, as submitit does."""
    with terminal.streams():
        taken = sys.stderr
    taken.close()
    print("still there", file=sys.stderr)
    assert capfd.readouterr().err == "still there\n"


def test_a_terminal_that_is_gone_is_told_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Answers(errno.EIO))
    monkeypatch.setattr(sys, "stderr", Answers(errno.EIO))
    assert main(["--version"]) == 0 and main(["zzz"]) == 2


def test_words_that_a_locale_cannot_write_are_written_all_the_same(monkeypatch):
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, "ascii"))
    with terminal.streams():
        print("λ = 0.95")
    assert content.getvalue() == b"\\u03bb = 0.95\n"


def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:
        files.write_text(tmp_path / "x.gif", "x")
    assert caught.value.filename == str(tmp_path / "x.gif") and not list(tmp_path.iterdir())
    with pytest.raises(NotADirectoryError) as caught:
        files.write_text(Path("/dev/null/x.gif"), "x")
    assert caught.value.filename == "/dev/null/x.gif"


# Signals


@pytest.mark.parametrize(
    "sent",
    [
        [signal.SIGHUP, signal.SIGHUP],  # a terminal's: the kernel's and the shell's
        [signal.SIGTERM, signal.SIGHUP],  # systemd's
        [signal.SIGUSR1, signal.SIGTERM],  # Slurm's --signal=USR1, and its limit
        [signal.SIGUSR2],
        [signal.SIGXCPU],
        [signal.SIGINT, signal.SIGTERM],
    ],
    ids=lambda sent: "+".join(number.name for number in sent),
)
def test_a_run_that_is_asked_to_end_leaves_a_checkpoint(sent, tmp_path, monkeypatch, capsys):
    learn = Trainer.learn
    monkeypatch.setattr(Trainer, "learn", lambda self: ([*map(signal.raise_signal, sent)], learn(self))[1])
    assert main([*TRAIN.replace("run", str(tmp_path / "run")).split(), "--train.pretrain", "2"]) == 130
    assert "the same command goes on from there" in capsys.readouterr().out
    assert list((tmp_path / "run" / "checkpoints").glob("*1000.pt"))


def test_signals_that_another_one_answers_are_left_alone():
    before = {n: signal.getsignal(n) for n in (signal.SIGHUP, signal.SIGUSR2)}
    seen = []
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        signal.signal(signal.SIGUSR2, lambda *_: seen.append(1))  # submitit
        with stop_on_signal() as stop:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGUSR2)
        assert not stop.asked and seen == [1]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("evaluate --logdir run", "lsp_fast.evaluate.load"),
        ("skills --logdir run", "lsp_fast.evaluate.load"),
        ("plot run", "lsp_fast.reports.plot.plot"),
        ("sweep file.toml", "lsp_fast.sweeps.sweep.read"),
        ("doctor", "lsp_fast.reports.doctor.report"),
    ],
)
def test_ctrl_c_is_a_line_in_every_command(command, place, monkeypatch, capsys):
    monkeypatch.setattr(place, lambda *_, **__: (signal.raise_signal(signal.SIGINT), time.sleep(10)))
    assert main(command.split()) == 130
    assert capsys.readouterr().err.startswith("lsp-fast: quit")


# Caches


def _double(x):
    return 2 * x


def test_what_no_place_keeps_is_compiled_all_the_same(monkeypatch):
    from numba.core import caching

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(cache=True)(_double)
    assert njit()(_double)(np.float32(4)) == 8


def test_a_place_that_is_full_fails_no_call(monkeypatch, tmp_path):
    from numba.core import caching

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    double = njit()(_double)
    assert double(4) == 8 and double(np.float64(4)) == 8 and double(4) == 8


@pytest.mark.slow
def test_a_read_only_package_trains(tmp_path, monkeypatch):
    package = Path(lsp_fast.__file__).parent
    for root, folders, names in os.walk(package, followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        there = tmp_path / "lsp_fast" / os.path.relpath(root, package)
        there.mkdir()
        (there / "__pycache__").touch()
        for name in names:
            (there / name).symlink_to(Path(root, name))
    monkeypatch.chdir(tmp_path)
    nowhere = "HOME=/dev/null XDG_CACHE_HOME=/dev/null/x NUMBA_CACHE_DIR=/dev/null/x MPLCONFIGDIR=/dev/null/x"
    done = shell(f"PYTHONPATH={tmp_path} {nowhere} {LSP_FAST} {TRAIN.replace('gym:Pendulum-v1', 'cheetah_run')}")
    assert done.returncode == 0 and "Matplotlib" not in done.stderr, done.stderr
    assert Path("run/learning_curve.png").exists()


# Cores


def test_a_containers_time_counts_as_cores(monkeypatch):
    for quota, cores in ((None, 8), (2.0, 2), (2.5, 3), (0.1, 1), (64.0, 8)):
        monkeypatch.setattr(machine, "allowed_cores", lambda: 8)
        monkeypatch.setattr(machine, "cpu_quota", lambda quota=quota: quota)
        assert machine.cores() == cores


@pytest.fixture
def threads_again(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_pytorch_takes_no_more_threads_than_the_container_grants(threads_again, monkeypatch):
    monkeypatch.setattr(machine, "cpu_quota", lambda: 1.5)
    torch.set_num_threads(4)
    assert "2 threads instead of 4" in (threads.use() or "") and torch.get_num_threads() == 2
    assert threads.use() is None and torch.get_num_threads() == 2
    assert threads.use(3) is None and torch.get_num_threads() == 3  # who asks decides
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads.use() is None and torch.get_num_threads() == 3
    monkeypatch.setattr(machine, "cpu_quota", lambda: None)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads.use() is None and torch.get_num_threads() == 3
    with pytest.raises(ConfigError, match="at most"):
        threads.use(machine.most_threads() + 1)


def test_doctor_tells_of_the_container(threads_again, monkeypatch):
    monkeypatch.setattr(machine, "cpu_quota", lambda: 1.5)
    torch.set_num_threads(4)
    [cores] = [finding for finding in doctor._processor() if finding.name == "cores"]
    [found] = doctor._threads()
    assert "the time of 1.5" in cores.text and "2 threads instead of 4" in found.text


def test_our_own_kernels_ask_for_no_thread_that_is_refused(monkeypatch):
    from lsp_fast.backends import cpp

    monkeypatch.setattr(torch, "get_num_threads", lambda: 100_000)
    assert cpp._threads() == machine.most_threads()
