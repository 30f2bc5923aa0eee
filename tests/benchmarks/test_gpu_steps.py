"""The scripts that `make gpu` runs, on a processor: each says what is wrong, and a wrong tile is not timed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOM = ROOT / "benchmarks" / "gpu"
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

SMOKE = ("--preset", "smoke", "--device", "cpu", "--backend", "reference", "--threads", 1)


def run(*command, **environment):
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, env={**ENVIRONMENT, **environment}, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize(("height", "status"), [(256, 0), (128, 1)])  # a processor's table has the smaller one
def test_a_tile_that_is_wrong_is_not_timed(tmp_path, height, status):
    program = (
        f"import sys\nsys.path.insert(0, {str(ROOM)!r})\nimport tiles\nright = tiles.ImagineHeads._linear\n"
        "def wrong(self, x, layer, out, chosen):\n"
        "    right(self, x, layer, out, chosen)\n"
        f"    if chosen.linear.rows == {height}: out.mul_(1.1)\n"
        "tiles.ImagineHeads._linear = wrong\n"
        "options = '--device cpu --preset smoke --rows 40 --samples 1 --repeats 1 --precisions bf16 --out'\n"
        f"sys.exit(tiles.main([*options.split(), {str(tmp_path / 'x.json')!r}]))\n"
    )
    done = run("-c", program, TRITON_INTERPRET="1")
    assert done.returncode == status, done.stderr
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    ours = [row for row in rows if row["variant"] == "ours"]
    assert {row["work"].split()[0] for row in ours} == {"16", "GRU"}
    for row in ours:
        if row["work"].startswith("16") and row["tile"]["rows"] == height:
            assert "relative error" in row["failure"] and row["ms"] is None
        else:
            assert row["failure"] is None and row["ms"] > 0 and row["error"] < 0.01
    assert "relative error" in done.stdout


def test_outcomes_are_counted_and_skipping_all_is_no_success(tmp_path):
    cases = {"assert True": (0, 1, 0, 0), "assert False": (1, 0, 1, 0), "pytest.skip('no card')": (1, 0, 0, 1)}
    started = []
    for i, code in enumerate(cases):
        file, out = tmp_path / f"test_{i}.py", tmp_path / f"{i}.json"
        marked = f"@pytest.mark.gpu\ndef test_it():\n    {code}\n"
        file.write_text(f"import pytest\n{marked}def test_no_card():\n    assert False\n")
        command = [sys.executable, ROOM / "card_tests.py", "--out", out, "--tests", file]
        started.append((subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE), out))
    for (process, out), (status, *counts) in zip(started, cases.values(), strict=True):
        process.communicate()
        found = json.loads(out.read_text())
        assert process.returncode == status and len(found["tests"]) == 1
        assert [found["passed"], found["failed"], found["skipped"]] == counts


@pytest.fixture
def runs():
    spec = importlib.util.spec_from_file_location("room_runs", ROOM / "runs.py")
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


def rows(*steps):
    return [{"env_steps": n, "world_model/loss": 1.0} for n in steps]


def test_rows_that_do_not_follow_are_found(runs):
    evaluation = [{"env_steps": 200, "return": 3.0}]
    assert runs.compare(rows(100, 200) + evaluation, rows(100, 200) + evaluation + rows(300)) == []
    assert "no row" in runs.compare([], rows(100))[0]
    assert "added no row" in runs.compare(rows(100), rows(100))[0]
    assert "not those" in runs.compare(rows(100), rows(50, 100))[0]
    assert "[100, 200, 200]" in runs.compare(rows(100, 200), rows(100, 200, 200))[0]


def test_a_start_that_fails_or_is_slower_is_said(runs, tmp_path, monkeypatch, capsys):
    said = iter([(0, ["a plan goes on without a CUDA graph: why"]), (1, [])])
    monkeypatch.setattr(runs, "train", lambda *a: next(said))
    assert runs.main(["resume", "--out", str(tmp_path / "x.json")]) == 1
    wrong = json.loads((tmp_path / "x.json").read_text())["wrong"]
    assert wrong[:2] == ["a plan goes on without a CUDA graph: why", "train ends with status 1"]
    assert "wrong: train ends" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_stopped_and_gone_on_with(tmp_path):
    done = run(
        ROOM / "runs.py", "resume", *SMOKE, "--env-steps", 100000, "--minutes", 0.1, "--out", tmp_path / "x.json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["wrong"] == [] and found["env_steps"][0] < found["env_steps"][1]


@pytest.mark.slow
def test_a_run_that_learns_keeps_its_scores(tmp_path):
    folder = ("--logdir", tmp_path / "run")
    done = run(ROOM / "runs.py", "learn", *SMOKE, "--env-steps", 1200, *folder, "--out", tmp_path / "x.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["finished"] and found["scores"][0]["xs"][-1] == 1200 and found["last_row"]["env_steps"] == 1200
