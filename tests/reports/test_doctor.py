"""The doctor: every check says what it found, none hides another, and nothing is written."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lsp_fast import backends, machine
from lsp_fast.backends import cpp, registry
from lsp_fast.errors import BackendUnavailable
from lsp_fast.reports import doctor


class FakeProbe:
    """A process that ends well at once; what needs a real one is tried apart."""

    def __init__(self, *code, **environment):
        pass

    def result(self):
        return True, "fine"


@pytest.fixture
def healthy(monkeypatch):
    monkeypatch.setattr(doctor, "Probe", FakeProbe)
    monkeypatch.setattr(doctor, "NEEDED", ("mujoco",))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.17.0")


def line(report, name):
    """The lines of that name, joined; several where a name comes twice."""
    return "\n".join(line for line in report.lines if line.startswith(f"  {name} "))


@pytest.mark.slow
def test_a_whole_report(tmp_path):
    """On this machine, where the other tests train too: in a fresh process, which must not import a renderer."""
    code = (
        "import sys; from lsp_fast.reports.doctor import report; r = report(); print(r);"
        "sys.exit(r.can_train != ('dm_control' not in sys.modules and 'OpenGL' not in sys.modules))"
    )
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("cheetah_run makes a step: 17 observations, 6 actions", "plans and acts on", "\ntraining can run"):
        assert text in done.stdout
    for name in (*doctor.NEEDED, "triton", "instructions", "cores", "memory", "disk", "cpp", "auto", "egl", "osmesa"):
        assert f"\n  {name} " in done.stdout
    assert "Traceback" not in done.stdout + done.stderr and "could not be looked at" not in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("version", "can_train"),
    [("3.17.0", True), ("3.20.1", True), ("3.16.9", False), ("4.0.0", False), ("4.0b1", False), (None, False)],
)
def test_mujoco_must_fit_dm_control(version, can_train, healthy, monkeypatch):
    def look_up(name):
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", look_up)
    report = doctor.report()
    assert report.can_train is can_train
    assert ("ERROR" in line(report, "mujoco")) is not can_train
    assert can_train or "pip install" in line(report, "mujoco")
    assert ("training can run" if can_train else "training cannot run: see mujoco above") == report.lines[-1]


def test_a_check_that_fails_hides_no_other(healthy, monkeypatch):
    def fail():
        raise ZeroDivisionError("no such thing")

    monkeypatch.setattr(machine, "allowed_cores", fail)
    report = doctor.report()
    assert line(report, "unknown").endswith("this could not be looked at: ZeroDivisionError: no such thing")
    assert line(report, "instructions") and line(report, "threads") and line(report, "agent")
    assert report.can_train


def test_a_backend_that_was_not_built_shows_why(healthy, monkeypatch):
    def load():
        raise BackendUnavailable("cannot be imported\nThe last lines of its build:\n    no compiler")

    monkeypatch.setattr(cpp, "load", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    registry._auto.cache_clear()
    report = doctor.report()
    registry._auto.cache_clear()
    assert "no: cannot be imported" in line(report, "cpp")
    assert any("no compiler" in text for text in report.lines)
    assert "takes reference on cpu" in line(report, "auto") and "yes, on cpu" in line(report, "reference")
    assert any("falling back" in text for text in report.lines)
    assert report.can_train


def test_an_agent_that_cannot_act_stops_training(healthy, monkeypatch):
    def get(name, device):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(backends, "get", get)
    report = doctor.report()
    assert "ERROR: RuntimeError: no kernel image" in line(report, "agent") and not report.can_train
    assert "no: RuntimeError: no kernel image" in line(report, "triton")


def test_an_environment_that_cannot_be_made_stops_training(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "gaslight")
    [finding] = doctor._environment(doctor.Probe(doctor._STEP, 60))
    assert finding.fatal and "gaslight" in finding.text and "Unset MUJOCO_GL" in finding.text
    assert not finding.text.startswith("lsp_fast.errors")


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("print('a'); print('b'); print()", (True, "b")),
        ("", (True, "")),
        ("1 / 0", (False, "ZeroDivisionError: division by zero")),
        ("import os; os._exit(3)", (False, "ended with status 3")),
        ("import os; os.kill(os.getpid(), 9)", (False, "ended with status -9")),
        ("import time; time.sleep(60)", (False, "no answer in 0.5 seconds")),
    ],
)
def test_what_happens_in_a_probe_is_only_reported(code, result):
    assert doctor.Probe(code, 0.5 if "sleep" in code else 30).result() == result


def test_the_containers_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.cpu_quota() is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.cpu_quota() is None
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    assert machine.cpu_quota() == 0.5
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert machine.cpu_quota() == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.cpu_quota() is None
    assert [finding.name for finding in doctor._memory()] == ["memory"]
    (tmp_path / "memory.max").write_text("2000000000\n")
    (tmp_path / "memory.current").write_text("500000000\n")
    _, container = doctor._memory()
    assert container == doctor.Finding("container", "2.0 GB, 500 MB in use")


def test_a_gpu_is_described(monkeypatch):
    properties = SimpleNamespace(name="Abacus", total_memory=80_000_000_000, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda: 13010, raising=False)
    gpu, driver = doctor._gpu()
    assert gpu == doctor.Finding("cuda:0", "Abacus, 80 GB, compute capability 9.0")
    assert driver.text.startswith("runs CUDA up to 13.1;")


def test_a_python_without_mazes_is_told_what_works(healthy, monkeypatch):
    monkeypatch.setattr(doctor, "NEEDED", ("dm_control",))
    monkeypatch.setattr(doctor, "MAZES", False)
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("labmaze", "dm_control") else "3.17.0")
    text = str(doctor.report())
    assert "missing; pip install --no-deps dm_control" in text
    assert "labmaze       missing, as it has no wheel for this Python; the suite's tasks" in text
