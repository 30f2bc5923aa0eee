"""What the CPU benchmarks print: ratios, shares of the peak, peers in processes of their own, the README's tables."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def path():
    """Benchmarks import each other by name."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def test_ratios_are_those_of_medians():
    import measure

    work = measure.Work("sleep", "a", {"a": lambda: None, "b": lambda: sum(range(10000))}, missing={"c": "not built"})
    a, b, c = measure.compare(work, samples=3, min_seconds=1e-4)
    assert a.ratio == 1 and b.ratio == pytest.approx(a.ms / b.ms) and b.peak is None
    assert c.ms is None and "not built" in measure.table([a, b, c])


def test_the_share_of_the_peak_is_that_of_the_precision(monkeypatch):
    import measure

    def native():
        return SimpleNamespace(peak=lambda precision, threads: {"fp32": 100.0, "bf16": 400.0}[precision])

    monkeypatch.setattr(measure.cpp, "load", native)
    monkeypatch.setattr(measure, "seconds_of", lambda variant, repeats: 2.0 * repeats)
    work = measure.Work("product", "eager", {"eager": print, "C++ bf16": print}, operations=120.0)
    fp32, bf16 = measure.compare(work, samples=3)
    assert fp32.peak == pytest.approx(0.6) and bf16.peak == pytest.approx(0.15)


def test_operations_are_the_layers():
    from peers.problem import problem

    assert problem("paper", 1).operations == pytest.approx(1.981e9, rel=1e-3)  # 640 steps of a start state


def test_a_peer_in_its_own_process_computes_the_same():
    import measure
    from peers.kinds import function_of
    from peers.problem import problem
    from peers.process import Process

    from lsp_fast.backends import REFERENCE
    from lsp_fast.planning.plan import plan

    p = problem("smoke", 2)
    expected = plan(p.start, p.weights, p.noise, p.prior, p.rules, REFERENCE).values
    assert torch.equal(function_of("eager", "smoke", "2")(), expected)
    process = Process("eager", "smoke", 2)
    try:
        torch.testing.assert_close(torch.tensor(process.values), expected[0])
        assert measure.seconds_of(process, 3) > 0
    finally:
        process.close()


def test_a_peer_that_cannot_be_had_says_why():
    from peers.process import peer

    reason = peer("eager", "no such preset", 2)
    assert isinstance(reason, str) and "no such preset" in reason


@pytest.mark.parametrize(("precision", "asked"), [("fp32", "highest"), ("tf32", "default"), ("bf16", "default")])
def test_jax_is_asked_for_the_rows_precision(monkeypatch, precision, asked):
    pytest.importorskip("jax")
    from peers import jax_plan
    from peers.problem import problem

    seen, dot = set(), jax_plan.jnp.dot

    def record(*arguments, **options):
        seen.add(options["precision"])
        return dot(*arguments, **options)

    monkeypatch.setattr(jax_plan.jnp, "dot", record)
    jax_plan.build(problem("smoke", 1), precision)()
    assert seen == {asked}


def test_the_pages_tables_are_the_results():
    import speed_page

    for page, parts in speed_page.pages().items():
        text = page.read_text()
        assert all(text.count(mark) == 1 for begin, end, _ in parts for mark in (begin, end))
        assert text == speed_page.filled(text, parts), f"run python benchmarks/speed_page.py: {page.name} differs"


def test_environments_elsewhere_are_timed_beside_those_here(tmp_path, capsys):
    import workers

    out = tmp_path / "x.json"
    assert workers.main(["gym:Pendulum-v1", "--samples", "1", "--out", str(out)]) == 0
    assert [row["variant"] for row in json.loads(out.read_text())["rows"]] == [
        "this process",
        "1 process",
        "2 processes",
    ]
    assert "gym:Pendulum-v1, 4 together" in capsys.readouterr().out


def test_training_end_to_end_is_timed_with_overlap_and_without(tmp_path, capsys):
    import end_to_end

    out = tmp_path / "x.json"
    arguments = ["--preset", "smoke", "--task", "cheetah_run", "--device", "cpu", "--samples", "1", "--steps", "40"]
    assert end_to_end.main([*arguments, "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert all(rate > 0 for rate in result["env_steps_per_second"].values()) and result["ratio"] > 0
    assert "overlap" in capsys.readouterr().out
