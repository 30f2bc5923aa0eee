"""benchmarks/gpu.py without a GPU: it refuses, and its own logic runs on the processor."""

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lsp_fast.config import make_config

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
CPU = torch.device("cpu")
ROOMS = ("bench", "checks", "cli", "table", "variants", "work")


def run(*args, cwd):
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, SCRIPT, *args], cwd=cwd, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def gpu():
    """The benchmark's rooms."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        return SimpleNamespace(**{name: importlib.import_module(f"gpu.{name}") for name in ROOMS})
    finally:
        sys.path.remove(str(SCRIPT.parent))


def bench(gpu, work, variants):
    """The benchmark's own way through one piece of work, on the processor."""
    args = gpu.cli.parse(["--device", "cpu"])
    args.variants = variants
    config = make_config("smoke", device="cpu", backend="reference")
    rows, flops = gpu.bench.Bench(gpu.work.WORKS[work](config, (7, 3), CPU), args, CPU).run()
    return {v.name: v for v in rows}, flops


def test_it_refuses_without_a_gpu(tmp_path):
    done = run("--out", "x.json", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "CUDA GPU" in line
    assert not (tmp_path / "x.json").exists()


@pytest.mark.slow
def test_on_the_processor(tmp_path):
    done = run("--device", "cpu", "--quick", "--task-dims", "7", "3", "--out", "results/x.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    title, head, *lines = done.stdout.splitlines()
    assert title.startswith("cpu, torch ")
    assert head.split()[:3] == ["work", "variant", "prec"]
    result = json.loads((tmp_path / "results" / "x.json").read_text())
    assert result["environment"].keys() == {
        "device", "capability", "torch", "cuda", "triton", "python", "date", "revision",
    }  # fmt: skip
    assert result["sizes"]["task_dims"] == [7, 3]
    names = [(r["work"], r["variant"]) for r in result["rows"]]
    expected = [("plan", "eager"), ("act", "eager"), ("act", "policy"), ("planet", "eager"), ("model", "eager")]
    assert names == [*expected, ("update", "eager")]
    assert len(lines) == len(names)
    for r in result["rows"]:
        assert r["failure"] is None and len(r["samples_ms"]) >= 5 and r["ms"] > 0 and r["flop"] > 0
        assert all(math.isfinite(float(e)) for e in r["errors"].values())
        assert r["variant"] == "policy" or any(k.startswith("float64/") for k in r["errors"])
    assert str(ROOT) not in json.dumps(result)


@pytest.mark.parametrize("work", ["plan", "act", "planet", "model", "update"])
@pytest.mark.parametrize("damage", ["nan", "wrong", "raises"])
def test_what_fails_its_check_is_not_timed(gpu, monkeypatch, work, damage):
    def spoil(result):
        if isinstance(result, torch.Tensor):
            if not result.is_floating_point():
                return result
            return result * math.nan if damage == "nan" else result * 1.5 + 0.5
        if isinstance(result, dict):
            return {k: spoil(v) for k, v in result.items()}
        return type(result)(*(spoil(x) for x in result))

    def capture(function, *inputs, generators):
        assert generators() is not None
        for _ in range(3):
            function(*inputs)
        if damage == "raises":
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        return lambda *arguments: spoil(function(*arguments))

    monkeypatch.setattr(gpu.variants, "capture", capture)
    rows, flops = bench(gpu, work, ("graph",))
    assert rows["eager"].failure is None and len(rows["eager"].seconds) >= 5
    failure = rows["graph"].failure
    assert failure is not None and rows["graph"].seconds == []
    assert failure == "RuntimeError: operation not permitted when stream is capturing" or "check" in failure
    row = gpu.table.row(rows["graph"], flops, {"fp32": 1e9}, {"fp32": 1.0})
    assert failure in gpu.table.table([row], "title").splitlines()[-1]


def test_a_graph_that_repeats_its_noise_fails(gpu, monkeypatch):
    def capture(function, *inputs, generators):
        frozen = function(*inputs)
        return lambda *arguments: frozen

    monkeypatch.setattr(gpu.variants, "capture", capture)
    for work in ("act", "model", "update"):
        assert "check" in bench(gpu, work, ("graph",))[0]["graph"].failure


@pytest.mark.parametrize("work", ["plan", "act", "planet"])
def test_jax_plans_the_same(gpu, work, monkeypatch):
    pytest.importorskip("jax")
    monkeypatch.syspath_prepend(SCRIPT.parent)
    row = bench(gpu, work, ("JAX",))[0]["JAX"]
    assert row.failure is None and len(row.seconds) >= 5 and row.errors["eager/values"] < 1e-4


def test_a_plan_costs_what_the_target_says(gpu):
    """1.981 GFLOP a start at the paper's sizes: 16 candidates x 10 steps x 4 iterations x 3.096 MFLOP."""
    config = make_config("paper", device="cpu", backend="reference", train__batch_size=1, train__batch_length=1)
    args = gpu.cli.parse(["--device", "cpu"])
    flops = gpu.bench.Bench(gpu.work.Plan(config, (78, 12), CPU), args, CPU).count_flops()
    assert flops == pytest.approx(1.981e9, rel=1e-3)


def test_errors_are_never_hidden_by_nan(gpu):
    assert gpu.checks.relative_error(torch.tensor([math.nan, 1.0]), torch.tensor([1.0, 1.0])) == math.inf
    assert gpu.checks.relative_error(torch.tensor([1.0]), torch.tensor([math.nan])) == math.inf
    for error in (math.nan, math.inf, 1.0):
        with pytest.raises(gpu.checks.CheckError):
            gpu.checks.judge({"eager/mean": error}, "tf32", None)
    gpu.checks.judge({"eager/mean": 1e-4}, "fp32", None)
