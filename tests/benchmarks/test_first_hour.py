"""`make gpu` without a card: it refuses, and its own logic runs with steps that stand in for the real ones."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOM = ROOT / "benchmarks" / "gpu"
ABOUT = {"device": "Card 1", "torch": "2.13.0", "capability": [9, 0]}
NO_CARD = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def load(name):
    spec = importlib.util.spec_from_file_location(f"room_{name}", ROOM / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hour(tmp_path, monkeypatch):
    """The runner with a card that is pretended, and a folder of results of its own."""
    module = load("first_hour")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "card", lambda env: ABOUT)
    monkeypatch.setattr(module, "GRACE", 1.0)
    return module


@pytest.fixture
def steps(hour, tmp_path, monkeypatch):
    """Gives the runner steps: (name, code, limit). Each says in a file how often it was run."""

    def give(*rows):
        made = []
        for name, code, *limit in rows:
            script = tmp_path / f"{name}.py"
            count = f"import sys\nout = sys.argv[1]\nopen({str(tmp_path / name)!r}, 'a').write('x')\n"
            script.write_text(count + code)
            made.append(hour.Step(name, f"what {name} says", (str(script), "{out}"), *(limit or [20.0])))
        monkeypatch.setattr(hour, "STEPS", tuple(made))

    give.runs = lambda name: len((tmp_path / name).read_text()) if (tmp_path / name).exists() else 0
    give.record = lambda name: json.loads((hour.RESULTS / f"gpu_{name}.json").read_text())
    return give


GOOD = "open(out, 'w').write('{\"ms\": 1.5}')\nprint('fine')\n"
BAD = "print('in', __file__)\nsys.exit(3)\n"


def test_without_a_card_it_refuses():
    done = subprocess.run([sys.executable, ROOM / "first_hour.py"], env=NO_CARD, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "CUDA GPU" in line and "run it on a machine with one" in line


@pytest.mark.skipif(shutil.which("make") is None or list(Path("/dev").glob("nvidia[0-9]*")), reason="make, and no card")
def test_make_refuses_before_it_installs_anything(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "constraints.txt").touch()
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not (Path(p) / "nvidia-smi").exists())
    clean = {**os.environ, "PATH": path, "MAKEFLAGS": "", "MFLAGS": "", "WHEELS": "", "GPU_ARGS": ""}
    done = subprocess.run(["make", "gpu"], cwd=tmp_path, env=clean, capture_output=True, text=True)
    assert done.returncode == 2 and "no NVIDIA GPU is seen" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_failure_is_kept_and_does_not_stop_the_next_step(hour, steps, capsys):
    steps(("bad", BAD), ("good", GOOD))
    assert hour.main([]) == 1
    bad, good = steps.record("bad"), steps.record("good")
    assert (bad["status"], bad["rc"], bad["found"]) == ("failed", 3, None) and bad["tail"][-1].startswith("in ")
    assert (good["status"], good["rc"], good["found"], good["tail"]) == ("ok", 0, {"ms": 1.5}, ["fine"])
    assert good["environment"] == ABOUT and good["code"] == hour.code() and good["date"] and good["seconds"] >= 0
    assert "bad: failed" in capsys.readouterr().out


def test_no_result_names_a_path_of_the_machine(hour, steps):
    steps(("tells", "import os\nprint(os.getcwd(), sys.prefix, out, os.path.expanduser('~'))\n"))
    assert hour.main([]) == 0
    told = steps.record("tells")
    for path in (str(ROOT), sys.prefix, str(Path.home())):
        assert path not in json.dumps(told["tail"])
    assert "{out}" in told["command"]


def test_what_was_done_before_is_not_run_again(hour, steps, monkeypatch, capsys):
    steps(("bad", BAD), ("good", GOOD))
    hour.main([])
    assert hour.main([]) == 1  # it still says that one of them failed
    assert (steps.runs("bad"), steps.runs("good")) == (1, 1)
    assert "bad: failed before" in capsys.readouterr().out
    hour.main(["--again"])
    assert (steps.runs("bad"), steps.runs("good")) == (2, 1)
    assert hour.main(["--only", "good"]) == 0
    assert (steps.runs("bad"), steps.runs("good")) == (2, 2)
    monkeypatch.setattr(hour, "card", lambda env: {**ABOUT, "device": "Card 2"})
    hour.main([])
    assert (steps.runs("bad"), steps.runs("good")) == (3, 3)
    monkeypatch.setattr(hour, "code", lambda: "other code")
    hour.main([])
    assert (steps.runs("bad"), steps.runs("good")) == (4, 4)


@pytest.mark.parametrize("damage", ["", "[]", '{"code": 1}'])
def test_a_damaged_result_is_made_anew(hour, steps, damage):
    steps(("good", GOOD))
    hour.RESULTS.mkdir()
    (hour.RESULTS / "gpu_good.json").write_text(damage)
    assert hour.main([]) == 0 and steps.record("good")["status"] == "ok"


def test_a_run_that_is_not_finished_is_gone_on_with(hour, steps):
    steps(("learn", "open(out, 'w').write('{\"finished\": false}')\n"))
    assert hour.main([]) == hour.main([]) == 0
    assert steps.runs("learn") == 2


def test_over_its_limit_a_step_is_ended_with_its_children(hour, steps, tmp_path):
    code = (
        "import signal, subprocess, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open(out, 'w').write('{\"child\": %d}' % child.pid)\nprint('began', flush=True)\ntime.sleep(60)\n"
    )
    steps(("slow", code, 2.0), ("good", GOOD))
    began = time.perf_counter()
    assert hour.main([]) == 1
    assert time.perf_counter() - began < 15
    slow = steps.record("slow")
    assert (slow["status"], slow["rc"], slow["tail"]) == ("over its limit", None, ["began"])
    assert ended(slow["found"]["child"]) and steps.record("good")["status"] == "ok"


def ended(pid):
    """Whether a process has ended, or only waits for whoever inherits it."""
    for _ in range(50):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False


def test_a_stopped_step_leaves_no_result_and_nothing_on_the_card(tmp_path):
    step = tmp_path / "step.py"
    step.write_text(f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n")
    driver = (
        "import importlib.util, pathlib, sys\n"
        f"spec = importlib.util.spec_from_file_location('hour', {str(ROOM / 'first_hour.py')!r})\n"
        "hour = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(hour)\n"
        f"hour.RESULTS, hour.GRACE = pathlib.Path({str(tmp_path / 'results')!r}), 1.0\n"
        f"hour.card = lambda env: {ABOUT!r}\nhour.STEPS = (hour.Step('slow', '', ({str(step)!r},)),)\n"
        "sys.exit(hour.main([]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(100):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143 and not (tmp_path / "results").exists()
    assert ended(int((tmp_path / "pid").read_text()))


def test_no_step_begins_when_the_minutes_are_over(hour, steps, capsys):
    steps(("good", GOOD), ("other", GOOD))
    assert hour.main(["--minutes", "0"]) == 0
    assert "not begun" in capsys.readouterr().out and not hour.RESULTS.exists()


def test_steps_are_listed_and_are_scripts(hour, capsys):
    assert hour.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["tests", "kernels", "tiles", "resume", "end_to_end"]
    for step in hour.STEPS:
        assert (ROOT / step.command[0]).exists() and step.command[-2:] == ("--out", "{out}")
        assert step.limit + 15 <= 600  # ten minutes, with what it is given to stop in


def test_progress_is_shown_and_not_kept(hour, steps, capfd):
    steps(("bar", "print('run:  1%|#   | 1/9\\rrun: 2%|##  | 2/9')\nprint('done')\n"))
    hour.main([])
    assert steps.record("bar")["tail"] == ["done"]


def wheel(folder, name, **files):
    path = folder / f"{name}-1.0-py3-none-any.whl"
    about = f"{name}-1.0.dist-info"
    files = {
        **files,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{about}/RECORD"] = "".join(f"{file},,\n" for file in (*files, f"{about}/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


def test_what_the_host_lacks_is_installed_for_the_time_being(hour, steps, tmp_path):
    wheel(tmp_path, "surely_missing", **{"surely_missing.py": "told = 'carried'\n"})
    wheel(tmp_path, "pytest", **{"pytest.py": "raise RuntimeError('the host has its own')\n"})
    steps(("imports", "import pytest, surely_missing\nprint(surely_missing.told, surely_missing.__file__)\n"))
    assert hour.main(["--wheels", str(tmp_path)]) == 0
    told, file = steps.record("imports")["tail"][-1].split()
    assert told == "carried" and not Path(file).exists()


def test_a_folder_without_wheels_is_refused(hour, steps, tmp_path, capsys):
    steps(("good", GOOD))
    assert hour.main(["--wheels", str(tmp_path / "none")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pack.py" in line and not hour.RESULTS.exists()


def test_a_packed_wheel_lacks_what_is_left_out_and_installs(tmp_path):
    pack = load("pack")
    kept, dropped = "dm_control/suite/walker.xml", "dm_control/locomotion/arenas/assets/big.png"
    path = wheel(tmp_path, "dm_control", **{kept: "<xml/>", dropped: "x" * 10000})
    pack.slim(path, pack.LEFT_OUT["dm_control"])
    with zipfile.ZipFile(path) as archive:
        assert kept in archive.namelist() and dropped not in archive.namelist()
        assert dropped not in archive.read("dm_control-1.0.dist-info/RECORD").decode()


def test_versions_that_are_packed_are_the_tests(hour):
    pack = load("pack")
    pins = pack.pinned(without=["NumPy"])
    assert {"mujoco==3.17.0", "dm_control==1.0.50", "hypothesis==6.170.15"} <= set(pins)
    assert not any(pin.startswith(("numpy", "torch", "triton")) for pin in pins)
